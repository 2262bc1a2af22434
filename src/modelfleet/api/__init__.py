"""REST `/v1`: parse, authenticate, call one verb of a room, render. Errors are problem+json."""
