"""The SDK. It knows the wire and nothing of the server.

from modelfleet.client import Client

client = Client()
client.register(model, example=X[:100], name="churn", team="growth", reference=X)
client.deploy("churn", wait=True)
client.predict("churn", X[:1])
"""

from modelfleet.client.client import Client
from modelfleet.client.errors import ApiError, Unreachable

__all__ = ["ApiError", "Client", "Unreachable"]
