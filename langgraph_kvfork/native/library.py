"""The native library, and llama-cpp-python's low-level bindings bound to it.

One shared object holds llama.cpp and the engine. `llama-cpp-python` declares all of llama.cpp's C
interface for ctypes, in a module that loads a library when it is imported. A private instance of
that module, bound to our library, declares it for us; the module and the library that a user's own
`import llama_cpp` gives are not touched, whichever comes first.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib.metadata
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

BINDINGS_VERSION = "0.3.36"
"""The llama-cpp-python release whose llama.cpp our library is built from."""

_EXTENSIONS = "llama_cpp._ctypes_extensions"
_INSTALL = "pip install langgraph-kvfork"

_lock = threading.RLock()
_library: ctypes.CDLL | None = None
_llama_cpp: ModuleType | None = None


def library() -> ctypes.CDLL:
    """Return the native library, loaded on the first call.

    Raises:
        ImportError: It is not there, or the system cannot load it.
    """
    global _library
    with _lock:
        if _library is None:
            _library = _load_library()
        return _library


def llama_cpp() -> ModuleType:
    """Return the bindings of `llama.h`, bound to our library on the first call.

    Raises:
        ImportError: llama-cpp-python is missing or of another version, or the library is missing.
    """
    global _llama_cpp
    with _lock:
        if _llama_cpp is None:
            _llama_cpp = _load_bindings(library())
        return _llama_cpp


def _load_library() -> ctypes.CDLL:
    name = "libllama.dylib" if sys.platform == "darwin" else "libllama.so"
    # an editable install has two folders: the checkout, and the one that the library was put into
    folders = [Path(entry, "lib") for entry in sys.modules["langgraph_kvfork"].__path__]
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        searched = ", ".join(map(str, folders))
        raise ImportError(
            f"langgraph-kvfork's native library {name} is not in {searched}. It is built when the "
            f"package is installed: `{_INSTALL}`, or `make install` in a checkout."
        )
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"The system cannot load langgraph-kvfork's native library: {error}. If it was built "
            f"on another machine, build it on this one: `{_INSTALL} --no-binary langgraph-kvfork "
            "--force-reinstall --no-deps`."
        ) from error


def _load_bindings(lib: ctypes.CDLL) -> ModuleType:
    folder = _bindings_folder()
    extensions = _module(folder, "_ctypes_extensions")
    _execute(extensions, vars(builtins))
    # the bindings module asks this to find and load a library: ours is loaded
    vars(extensions)["load_shared_library"] = lambda *_: lib

    def private_import(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        # to leave sys.modules alone, which other threads see, answer the import statement itself
        if name == _EXTENSIONS:
            return extensions
        return __import__(name, *args, **kwargs)

    bindings = _module(folder, "llama_cpp")
    _execute(bindings, {**vars(builtins), "__import__": private_import})
    return bindings


def _bindings_folder() -> Path:
    """Find llama-cpp-python without importing it: that would load its own library."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = "no version"
    if version != BINDINGS_VERSION:
        raise ImportError(
            f"langgraph-kvfork is built from the llama.cpp of llama-cpp-python {BINDINGS_VERSION} "
            f"and needs that version's bindings; {version} is installed. "
            f"`pip install llama-cpp-python=={BINDINGS_VERSION}`"
        )
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("llama-cpp-python is installed, but its package llama_cpp is not there.")
    return Path(spec.submodule_search_locations[0])


def _module(folder: Path, name: str) -> ModuleType:
    module = ModuleType(f"{__package__}._private_llama_cpp.{name}")
    module.__file__ = str(folder / f"{name}.py")
    return module


def _execute(module: ModuleType, namespace_of_builtins: dict[str, Any]) -> None:
    path = Path(str(module.__file__))
    vars(module)["__builtins__"] = namespace_of_builtins
    exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
