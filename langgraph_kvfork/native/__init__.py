"""The native library, for ctypes: where it is, its C interface, the bindings of `llama.h`."""
