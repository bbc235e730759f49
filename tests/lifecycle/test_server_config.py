import pytest

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.server_config import ServerConfig

TEXT = """
# a comment
model_config_list {
  config { name: "a" base_path: "/models/a" model_platform: "tensorflow"
           model_version_policy { specific { versions: 1 versions: 3 } }
           version_labels { key: "stable" value: 3 }
           logging_config { sampling_config { sampling_rate: 0.5 } } }
  config { name: "b" base_path: "/models/b" model_platform: "tensorflow" model_version_policy { all {} } }
}
"""


def test_labels_and_pins_are_read() -> None:
    config = ServerConfig.parse(TEXT)
    assert list(config.models) == ["a", "b"]
    assert (config.labels("a"), config.pins("a")) == ({"stable": 3}, [1, 3])
    assert (config.labels("b"), config.pins("b")) == ({}, [])


def test_the_older_way_to_name_the_platform_is_kept() -> None:
    config = ServerConfig.parse('model_config_list { config { name: "a" base_path: "/a" model_type: TENSORFLOW } }')
    assert "model_type: TENSORFLOW" in config.changed("a", labels={"stable": 1}).render()


def test_a_change_leaves_everything_else_alone() -> None:
    before = ServerConfig.parse(TEXT)
    after = ServerConfig.parse(before.changed("a", labels={"stable": 1}, pins={1}).render())
    assert (after.labels("a"), after.pins("a")) == ({"stable": 1}, [1])
    assert "sampling_rate: 0.5" in after.render()
    assert "all {" in after.render()
    assert (before.labels("a"), before.pins("a")) == ({"stable": 3}, [1, 3])


def test_without_pins_the_server_follows_the_newest() -> None:
    assert ServerConfig.parse(TEXT).changed("a", pins=()).pins("a") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_config_list {", "can't be understood"),
        ("nonsense: 1", "nonsense"),
        ('custom_model_config { type_url: "x" }', "custom_model_config"),
        (TEXT.replace('"b"', '"a"'), "lists a twice"),
    ],
)
def test_what_is_no_list_of_models_is_refused(text: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        ServerConfig.parse(text, where="here")


def test_a_model_that_is_not_listed_is_named_with_those_that_are() -> None:
    with pytest.raises(StoreError, match="has no c: it has a, b"):
        ServerConfig.parse(TEXT).labels("c")
