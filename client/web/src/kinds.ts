// The kinds of spots that models know: common names, descriptions, sources.

import { type Language, language } from "./strings";

/** What it is, what it looks like, what doctors do. */
type Words = readonly [string, string, string];

interface Kind {
  source: readonly [name: string, url: string];
  en: Words;
  /** Names in English, if the server gives none, and in Indonesian. */
  name: string;
  nama: string;
  id: Words;
}

const NHS = "https://www.nhs.uk/conditions/";
const DERMNET = "https://dermnetnz.org/topics/";

const KINDS: Record<string, Kind> = {
  akiec: {
    source: ["NHS, Actinic keratoses", `${NHS}actinic-keratoses/`],
    name: "sun damage that can become, or already is, an early skin cancer",
    en: [
      "Skin that years of sun have damaged, of which a small part becomes cancer; or a very early skin cancer, still in the top layer of the skin (Bowen's disease).",
      "A dry, rough, scaly patch, often on the face, ears, scalp, hands or arms. It can be skin-coloured, pink, red or brown.",
      "They look at it, and may wait, freeze it, prescribe a cream, or take it away.",
    ],
    nama: "kerusakan akibat matahari yang bisa menjadi, atau sudah menjadi, kanker kulit dini",
    id: [
      "Kulit yang rusak oleh matahari selama bertahun-tahun, yang sebagian kecilnya menjadi kanker; atau kanker kulit sangat dini, masih di lapisan teratas kulit (penyakit Bowen).",
      "Bercak kering, kasar, bersisik, sering di wajah, telinga, kulit kepala, tangan, atau lengan. Warnanya seperti kulit, merah muda, merah, atau cokelat.",
      "Dokter memeriksanya, lalu bisa menunggu, membekukannya, memberi krim, atau mengangkatnya.",
    ],
  },
  bcc: {
    source: ["DermNet, Basal cell carcinoma", `${DERMNET}basal-cell-carcinoma`],
    name: "a common skin cancer (basal cell)",
    en: [
      "The most common skin cancer. It grows slowly and hardly ever spreads, but damages the skin around it when it is left.",
      "A shiny or pearly bump, a pink patch, or a sore that doesn't heal, most often where the sun reaches.",
      "They take a sample, and most often cut it out. Treated early it is nearly always cured.",
    ],
    nama: "kanker kulit yang umum (sel basal)",
    id: [
      "Kanker kulit yang paling umum. Tumbuh lambat dan jarang menyebar, tetapi merusak kulit di sekitarnya jika dibiarkan.",
      "Benjolan mengilap seperti mutiara, bercak merah muda, atau luka yang tidak sembuh, biasanya di kulit yang terkena matahari.",
      "Dokter mengambil contoh jaringan, dan biasanya memotongnya. Jika ditangani dini hampir selalu sembuh.",
    ],
  },
  bkl: {
    source: ["DermNet, Seborrhoeic keratosis", `${DERMNET}seborrhoeic-keratosis`],
    name: "age spot or similar harmless growth",
    en: [
      "A harmless growth or age spot that most people get as they grow older.",
      "Flat or raised, waxy or warty, as if stuck on the skin; light brown to nearly black.",
      "Nothing, once they are sure what it is. One that disturbs can be frozen or scraped off.",
    ],
    nama: "bintik usia atau tumbuhan serupa yang tidak berbahaya",
    id: [
      "Tumbuhan kulit atau bintik usia yang tidak berbahaya, dialami kebanyakan orang seiring usia.",
      "Datar atau menonjol, seperti lilin atau kutil, seakan menempel di kulit; cokelat muda sampai hampir hitam.",
      "Tidak perlu apa-apa setelah jenisnya pasti. Yang mengganggu bisa dibekukan atau dikerok.",
    ],
  },
  df: {
    source: ["DermNet, Dermatofibroma", `${DERMNET}dermatofibroma`],
    name: "harmless firm skin nodule",
    en: [
      "A harmless firm lump in the skin, sometimes after an insect bite or a small injury.",
      "A hard button, pink to brown, that dimples when it is pinched; most often on the legs.",
      "Nothing, once they are sure. It is cut out when there is doubt.",
    ],
    nama: "benjolan kulit keras yang tidak berbahaya",
    id: [
      "Benjolan keras di kulit yang tidak berbahaya, kadang setelah gigitan serangga atau luka kecil.",
      "Seperti kancing keras, merah muda sampai cokelat, melekuk jika dicubit; paling sering di kaki.",
      "Tidak perlu apa-apa setelah jenisnya pasti. Dipotong jika ada keraguan.",
    ],
  },
  mel: {
    source: ["NHS, Melanoma skin cancer", `${NHS}melanoma-skin-cancer/`],
    name: "melanoma, a dangerous skin cancer",
    en: [
      "A skin cancer that can spread to other parts of the body. Found early, it can usually be cured.",
      "A new mole, or one that changes: uneven shape, ragged border, several colours, larger than 6 mm, growing, itching or bleeding.",
      "They cut it out soon, look at it under a microscope, and decide whether more is needed.",
    ],
    nama: "melanoma, kanker kulit yang berbahaya",
    id: [
      "Kanker kulit yang bisa menyebar ke bagian tubuh lain. Jika ditemukan dini, biasanya bisa disembuhkan.",
      "Tahi lalat baru, atau yang berubah: bentuk tidak sama, tepi bergerigi, beberapa warna, lebih dari 6 mm, membesar, gatal, atau berdarah.",
      "Dokter segera memotongnya, memeriksanya dengan mikroskop, dan memutuskan apakah perlu tindakan lain.",
    ],
  },
  nv: {
    source: ["NHS, Moles", `${NHS}moles/`],
    name: "mole",
    en: [
      "A mole: a harmless group of pigment cells. Nearly everyone has some.",
      "Round or oval, with a smooth edge and one even colour, flat or raised; it stays the same for years.",
      "Nothing, as long as it doesn't change. One that does is looked at, and cut out when in doubt.",
    ],
    nama: "tahi lalat",
    id: [
      "Tahi lalat: kumpulan sel pigmen yang tidak berbahaya. Hampir semua orang punya.",
      "Bulat atau lonjong, tepi halus, satu warna merata, datar atau menonjol; tetap sama bertahun-tahun.",
      "Tidak perlu apa-apa selama tidak berubah. Yang berubah diperiksa, dan dipotong jika meragukan.",
    ],
  },
  vasc: {
    source: ["DermNet, Cherry angioma", `${DERMNET}cherry-angioma`],
    name: "blood vessel mark",
    en: [
      "A harmless mark of small blood vessels, such as a cherry angioma.",
      "A small red, purple or nearly black dot or dome, smooth; it can bleed when scratched.",
      "Nothing, once they are sure. One that bleeds or disturbs can be taken away with heat, cold or laser.",
    ],
    nama: "tanda pembuluh darah",
    id: [
      "Tanda dari pembuluh darah kecil yang tidak berbahaya, misalnya angioma ceri.",
      "Titik atau kubah kecil merah, ungu, atau hampir hitam, halus; bisa berdarah jika tergaruk.",
      "Tidak perlu apa-apa setelah jenisnya pasti. Yang berdarah atau mengganggu bisa diangkat dengan panas, dingin, atau laser.",
    ],
  },
  scc: {
    source: ["NHS, Non-melanoma skin cancer", `${NHS}non-melanoma-skin-cancer/`],
    name: "a skin cancer (squamous cell)",
    en: [
      "The second most common skin cancer. It can spread when it is left for long.",
      "A firm pink lump or a scaly, crusted patch that may bleed or turn into a sore, most often where the sun reaches.",
      "They take a sample and cut it out with a border of healthy skin; some need radiotherapy.",
    ],
    nama: "kanker kulit (sel skuamosa)",
    id: [
      "Kanker kulit kedua yang paling umum. Bisa menyebar jika lama dibiarkan.",
      "Benjolan keras merah muda atau bercak bersisik berkerak yang bisa berdarah atau menjadi luka, biasanya di kulit yang terkena matahari.",
      "Dokter mengambil contoh jaringan dan memotongnya bersama tepi kulit sehat; sebagian perlu radioterapi.",
    ],
  },
  normal: {
    source: ["DermNet, The structure of normal skin", `${DERMNET}the-structure-of-normal-skin`],
    name: "normal skin",
    en: [
      "Skin without a spot of note.",
      "Even, or with pores, hairs, freckles and lines.",
      "Nothing. If you see a spot in the photo, take another with the spot in the middle.",
    ],
    nama: "kulit normal",
    id: [
      "Kulit tanpa bintik yang berarti.",
      "Rata, atau dengan pori, rambut, bintik matahari, dan garis.",
      "Tidak perlu apa-apa. Jika Anda melihat bintik di foto, ambil lagi dengan bintik di tengah.",
    ],
  },
};

/** A kind in the chosen language; null if unknown. */
export function kindOf(code: string): { words: Words; source: readonly [string, string] } | null {
  const kind = Object.hasOwn(KINDS, code) && KINDS[code]; // the code may come from a file or a URL
  return kind ? { words: kind[language() satisfies Language], source: kind.source } : null;
}

/** Common name of a kind; `name` is the server's English one, if any. */
export function className(code: string, name = KINDS[code]?.name ?? code): string {
  return language() === "id" ? (KINDS[code]?.nama ?? name) : name;
}
