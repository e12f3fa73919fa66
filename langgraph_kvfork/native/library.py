"""The native library, and the bindings of `llama.h` bound to it.

One shared object holds llama.cpp and the engine. llama-cpp-python declares all of llama.cpp's C
interface for ctypes, in a module that loads a library when it is imported. That module is part of
our wheel (`lib/bindings`, under its own license), in the version that the library is built from.
It is executed here, bound to our library. An installed llama-cpp-python of whatever version is
neither needed nor touched: both work in one process, whichever is imported first.
"""

from __future__ import annotations

import builtins
import ctypes
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

_EXTENSIONS = "llama_cpp._ctypes_extensions"
_INSTALL = "pip install langgraph-kvfork"

# reentrant: a garbage collection inside may come back here
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
        ImportError: The library or the bindings are missing.
    """
    global _llama_cpp
    with _lock:
        if _llama_cpp is None:
            _llama_cpp = _load_bindings(library())
        return _llama_cpp


def bindings_version() -> str:
    """Return the llama-cpp-python release whose llama.cpp and bindings these are.

    Raises:
        ImportError: The bindings are missing.
    """
    return (_installed("bindings") / "VERSION").read_text("utf-8").strip()


def _load_library() -> ctypes.CDLL:
    path = _installed("libllama.dylib" if sys.platform == "darwin" else "libllama.so")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"The system cannot load langgraph-kvfork's native library: {error}. If it was built "
            f"on another machine, build it on this one: `{_INSTALL} --no-binary langgraph-kvfork "
            "--force-reinstall --no-deps`."
        ) from error


def _installed(name: str) -> Path:
    """Return the path of something that the build put into `lib`."""
    # an editable install has two folders: the checkout, and the one that the library was put into
    folders = [Path(entry, "lib") for entry in sys.modules["langgraph_kvfork"].__path__]
    path = next((folder / name for folder in folders if (folder / name).exists()), None)
    if path is None:
        searched = ", ".join(map(str, folders))
        raise ImportError(
            f"langgraph-kvfork's native library has no {name} in {searched}. It is built when the "
            f"package is installed: `{_INSTALL}`, or `make install` in a checkout."
        )
    return path


def _load_bindings(lib: ctypes.CDLL) -> ModuleType:
    folder = _installed("bindings")
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


def _module(folder: Path, name: str) -> ModuleType:
    module = ModuleType(f"{__package__}._private_llama_cpp.{name}")
    module.__file__ = str(folder / f"{name}.py")
    return module


def _execute(module: ModuleType, namespace_of_builtins: dict[str, Any]) -> None:
    path = Path(str(module.__file__))
    vars(module)["__builtins__"] = namespace_of_builtins
    exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
