"""Open Inference Protocol v2: request bodies to arrays, arrays to answers.

Strict where a guess would change a prediction: a tensor has the datatype and shape of the
signature or is refused by name. `data` may be flat or nested, always row-major. JSON has no NaN:
clients send null (or the literal NaN that many libraries write); we answer null.

A request of one matrix of numbers is read in one typed pass, straight into numpy; others take one
pass for the envelope and one typed pass per tensor; null and NaN a third. Raw tensors behind the
JSON, both ways, are the matter of `binary`.

What only some models have costs the others nothing: optional inputs, parameters of the model (those
of the request that it declares), and calls without rows, whose tensors come in the model's own
shapes, or, several calls at once, with one more dimension in front.
"""

from modelfleet_worker.oip.answers import AnswerEncoder, readable
from modelfleet_worker.oip.envelopes import without_nan
from modelfleet_worker.oip.request import Decoded, RequestDecoder
from modelfleet_worker.wishes import BadRequest, UnsupportedMedia

__all__ = [
    "AnswerEncoder",
    "BadRequest",
    "Decoded",
    "RequestDecoder",
    "UnsupportedMedia",
    "readable",
    "without_nan",
]
