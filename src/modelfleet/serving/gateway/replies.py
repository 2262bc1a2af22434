"""Answers that the gateway itself gives, in the shape of the Open Inference Protocol."""

from __future__ import annotations

_AS_SAID = "%LOCAL_REPLY_BODY%"
_WHY = "%RESPONSE_CODE_DETAILS%"


def local_replies(max_body_bytes: int, headers: int, header_kb: int) -> dict[str, object]:
    """Errors are `{"error": "..."}` as application/json; good answers stay as they are."""
    texts = (
        (400, f"The request can't be read: {_WHY}."),
        (401, f"The key is missing or not valid: {_AS_SAID}."),
        (403, "This key may not do this at this endpoint, or it was revoked."),
        (404, "There is no such endpoint, version or method."),
        (408, "The request did not arrive in time."),
        (413, f"The request is larger than {max_body_bytes} bytes."),
        (431, f"The request has more than {headers} headers or {header_kb} KiB of them."),
        (429, "This endpoint takes no more requests of this caller for now."),
        (503, f"Nobody could answer: {_AS_SAID}."),
        (504, "There was no answer in time."),
    )
    mappers = [_mapper("EQ", status, text) for status, text in texts]
    return {"mappers": [*mappers, _mapper("GE", 400, _AS_SAID)]}


def _mapper(comparison: str, status: int, text: str) -> dict[str, object]:
    value = {"default_value": status, "runtime_key": "gateway.no_such_key"}
    later: dict[str, object] = {}
    if status in (429, 503):
        header = {"key": "retry-after", "value": "1"}
        later = {"headers_to_add": [{"header": header, "append_action": "ADD_IF_ABSENT"}]}
    return {
        **later,
        "filter": {"status_code_filter": {"comparison": {"op": comparison, "value": value}}},
        "body_format_override": {"json_format": {"error": text}},
    }
