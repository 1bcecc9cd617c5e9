# What the C++ core offers to Python, written by hand and proved by stubtest (tests/lint): one section per room.

__version__: str
