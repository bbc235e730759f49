-- The first filter of a request, and so the last of an answer.
local bit = require("bit")
local band, bxor, bnot, ror, shr, tobit = bit.band, bit.bxor, bit.bnot, bit.ror, bit.rshift, bit.tobit

-- SHA-256 (FIPS 180-4), as Envoy has no digest that Lua can call. The constants are the first 32 bits of the fractional
-- parts of the square and cube roots of the first primes.
local function constants(count, power)
  local found, candidate = {}, 2
  while #found < count do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do
      prime = prime and candidate % divisor ~= 0
    end
    if prime then
      found[#found + 1] = tobit(math.floor((candidate ^ power % 1) * 2 ^ 32))
    end
    candidate = candidate + 1
  end
  return found
end
local START, ROUND = constants(8, 1 / 2), constants(64, 1 / 3)

local function sha256(text)
  local bits = #text * 8
  text = text .. "\128" .. string.rep("\0", (55 - #text) % 64) .. "\0\0\0\0"
    .. string.char(band(shr(bits, 24), 255), band(shr(bits, 16), 255), band(shr(bits, 8), 255), band(bits, 255))
  local state = { unpack(START) }
  for block = 1, #text, 64 do
    local w = {}
    for i = 1, 16 do
      local a, b, c, d = string.byte(text, block + i * 4 - 4, block + i * 4 - 1)
      w[i] = tobit(a * 2 ^ 24 + b * 2 ^ 16 + c * 2 ^ 8 + d)
    end
    for i = 17, 64 do
      local x, y = w[i - 15], w[i - 2]
      local s0 = bxor(ror(x, 7), ror(x, 18), shr(x, 3))
      local s1 = bxor(ror(y, 17), ror(y, 19), shr(y, 10))
      w[i] = tobit(w[i - 16] + s0 + w[i - 7] + s1)
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for i = 1, 64 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local t1 = tobit(h + s1 + bxor(band(e, f), band(bnot(e), g)) + ROUND[i] + w[i])
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local t2 = tobit(s0 + bxor(band(a, b), band(a, c), band(b, c)))
      a, b, c, d, e, f, g, h = tobit(t1 + t2), a, b, c, tobit(d + t1), e, f, g
    end
    for i, value in ipairs({ a, b, c, d, e, f, g, h }) do
      state[i] = tobit(state[i] + value)
    end
  end
  return (string.gsub(string.rep("%s", 8), "%%s", function()
    return bit.tohex(table.remove(state, 1))
  end))
end

-- As the gateway checks it.
local function well_formed(id)
  return #id <= 64 and string.find(id, "^[%w._-]+$")
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local asked = headers:get("x-dermserve-asked-id")
  headers:remove("x-dermserve-asked-id")
  if asked and asked ~= "-" and well_formed(asked) then
    headers:replace("x-request-id", asked)
  end
  local key = headers:get("x-api-key")
  if key then
    headers:replace("x-api-key", #key <= 256 and sha256(key) or "")
  end
  -- The transcoder knows GET alone.
  if headers:get(":method") == "HEAD" and string.find(headers:get(":path"), "^/v1/") then
    headers:replace(":method", "GET")
    handle:streamInfo():dynamicMetadata():set("dermserve", "head", true)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  -- Malformed in what Envoy refuses before the filters.
  local id = headers:get("x-request-id")
  if id and not well_formed(id) then
    headers:remove("x-request-id")
  end
  if string.find(headers:get("content-type") or "", "^application/grpc") then
    headers:remove("www-authenticate") -- the token filter's repeats host and path
    return
  end
  for _, name in ipairs({ "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding" }) do
    headers:remove(name)
  end
  local status = headers:get(":status")
  local head = (handle:streamInfo():dynamicMetadata():get("dermserve") or {})["head"]
  if status ~= "429" and status ~= "503" and not head then
    return
  end
  local body = handle:body() -- waits for all of it; what was got from the handle before is void afterwards
  headers = handle:headers()
  if status == "429" or status == "503" then
    -- What the gateway's RetryInfo says, else when the rate limit's bucket has a token.
    local said = body and string.match(body:getBytes(0, body:length()), '"retryDelay":%s*"([%d.]+)s"')
    local empty = headers:get("x-ratelimit-remaining") == "0" and headers:get("x-ratelimit-reset")
    headers:replace("retry-after", string.format("%d", math.max(1, math.ceil(tonumber(said or empty or 1)))))
  end
  if head and body then
    body:setBytes("")
    headers:remove("content-length")
  end
end
