"""The version, in one place: CMake and the package both read this line."""

__version__ = "0.1.0"
