"""The dead man's switch: a process of its own, so that it outlives all that it watches, and that
nothing it waits for can hold up the host agent. It says that all is well for as long as that is
true; whoever listens hears silence. What the control plane alone may keep up ends when it is gone
(`shares`)."""
