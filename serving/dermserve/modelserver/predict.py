"""Predict: from a request to the tensors its signature feeds, and from what it fetches to the answer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from dermserve.modelserver.errors import failed_precondition, invalid_argument
from dermserve.modelserver.tensors import Tensor, Value, parse, render

DEFAULT_SIGNATURE = "serving_default"


class Runner(Protocol):
    """Runs a graph: the session itself, or the batcher before it."""

    def __call__(self, feeds: Mapping[str, Tensor], *, fetches: Sequence[str], timeout_ms: int) -> list[Value]:
        """Feed tensors by name and fetch others, in the order asked. A timeout of 0 waits for ever."""


def predict(
    request: Any, *, signatures: Mapping[str, Any], run: Runner, timeout_ms: int, as_content: bool, into: Any
) -> None:
    """Answer a PredictRequest into the PredictResponse `into`: its outputs and the signature's name.

    Raises:
        ServingError: the request does not fit the signature, or the graph failed.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    signature = signatures[name]
    feeds = _feeds(request.inputs, signature)
    aliases = _aliases(request.output_filter, signature)
    values = run(feeds, fetches=[signature.outputs[alias].name for alias in aliases], timeout_ms=timeout_ms)
    for alias, value in zip(aliases, values, strict=True):
        render(value, as_content=as_content, into=into.outputs[alias])
    into.model_spec.signature_name = name


def _feeds(inputs: Mapping[str, Any], signature: Any) -> dict[str, Tensor]:
    _check_count(inputs, signature)
    feeds = {}
    for alias, info in sorted(signature.inputs.items()):
        if alias not in inputs and alias not in signature.defaults:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(inputs)}, or default input alias set: "
                + _join(signature.defaults)
            )
        feeds[info.name] = parse(inputs[alias] if alias in inputs else signature.defaults[alias], alias=alias)
    used = inputs.keys() & signature.inputs.keys()
    if len(used) != len(inputs):
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_join(used)}, request input: {_join(inputs)}"
        )
    return feeds


def _check_count(inputs: Mapping[str, Any], signature: Any) -> None:
    sent, expected = inputs.keys(), signature.inputs.keys()
    if len(sent) > len(expected) or (len(sent) < len(expected) and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_set(sent)}) != "
            f"len({_set(expected)}). Sent extra: {_set(sent - expected)}. "
            f"Missing but required: {_set(expected - sent)}."
        )


def _aliases(output_filter: Iterable[str], signature: Any) -> list[str]:
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_set(signature.outputs)}."
            )
        if alias in chosen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return chosen or sorted(signature.outputs)


def _join(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def _set(names: Iterable[str]) -> str:
    return "{" + _join(names) + "}"
