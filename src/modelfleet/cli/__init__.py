"""The command line: noun, then verb. Data on stdout, talk on stderr; `--json` is the API's body.

Exit codes: 0 yes, 1 the answer is no, 2 usage or invalid input, 3 not reachable, 4 not allowed,
5 not found or conflict, 70 unexpected.
"""
