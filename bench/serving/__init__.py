"""The serving benchmark: the whole path beside other model servers. See `__main__`."""
