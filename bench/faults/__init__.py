"""The fault benchmark: what fails when things die, hang, are replaced, or too much is asked."""
