"""`dermserve models`."""

import json


def test_a_name_that_is_no_text_is_wrong_usage(run):
    assert run("models", "\udcff").returncode == 2


def test_models_are_listed_with_versions_labels_and_states(run):
    done = run("models")
    said = "resnet50\n  version 4: LOADING, not ready\n  version 3: AVAILABLE, ready [stable]\n"
    assert (done.returncode, done.stdout) == (0, said)


def test_one_model_is_shown_with_its_card(run):
    done = run("models", "resnet50")
    for words in ('name: "melanoma"', "malignant: true", "parameters: 25693063", "training: TRAINING_NONE"):
        assert words in done.stdout


def test_json_is_one_object_a_line(run):
    (listed,) = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert (listed["name"], listed["ready"]) == ("resnet50", True)
    assert listed["versions"][1] == {"version": 3, "state": "AVAILABLE", "labels": ["stable"], "ready": True}
    shown = json.loads(run("models", "resnet50", "--json").stdout)
    assert shown["versions"][1]["card"]["parameters"] == "25693063"


def test_an_unknown_model_is_1_and_says_which_there_are(run):
    done = run("models", "vgg")
    said = "no model has that name; there are: resnet50 (MODEL_NOT_FOUND: docs/errors.md#model_not_found)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_no_server_is_3(run):
    done = run("models", "--server", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no gateway answers at 127.0.0.1:1" in done.stderr
