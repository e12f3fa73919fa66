"""What an engine is built from: a model file and how to run it.

Two engines are one if their parameters come to the same. `weights_key` and `context_key` say when:
the first from the files, the second from llama.cpp's own structs, after the model has filled in
what was left open.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any

from langgraph_kvfork.arguments import (
    AdapterPath,
    AdapterScale,
    BatchSize,
    CellType,
    ContextSize,
    GpuIndex,
    GpuLayers,
    MaxGap,
    ModelPath,
    OptionalSwitch,
    OriginalContext,
    RopeNumber,
    RopeScaling,
    SequenceCount,
    SplitMode,
    StorePath,
    Switch,
    TemplateSource,
    TensorSplit,
    Threads,
    checked,
)
from langgraph_kvfork.checks import require
from langgraph_kvfork.engine.ending import python_in_native_code
from langgraph_kvfork.engine.store_size import DEFAULT_SIZE, StoreSize, size_bytes
from langgraph_kvfork.errors import InvalidRequestError
from langgraph_kvfork.machine.threads import default_threads

_FIRST_PART = re.compile(r"(?P<name>.*)-00001-of-(?P<count>\d{5})\.gguf$", re.DOTALL)
"""How llama.cpp names the first file of a split model."""


@dataclass(frozen=True)
class EngineParams:
    """A model file and how to run it. Names are those of `llama_cpp.Llama`.

    Parameters that come to the same share one engine. None leaves a value to llama.cpp, which takes
    it from the model if the model has it.

    Relative paths and links are resolved when this is made, and no more: a later `os.chdir`, or a
    link that points elsewhere, changes nothing.

    Attributes:
        model_path: Path of the GGUF file (the first one, if it is split).
        n_ctx: KV cells, one per token, that all branches share. 0: the model's training context.
            None: as many as fit beside the weights into the memory that is free when the model is
            loaded, of which a quarter is left to others; at most the training context.
        n_batch: Most tokens in one batch.
        n_ubatch: Most tokens that the back end computes at a time.
        n_threads: Threads for batches of one token; None: one per core that the process may use
            (see `default_threads`).
        n_threads_batch: Threads for larger batches; None: as `n_threads`.
        n_seq_max: Most sequences (running branches and snapshots) at a time, 1 to 256, for which
            llama.cpp is compiled (`LLAMA_MAX_SEQ`); further branches wait in line, at no cost for
            those that run, however many they are. None: 64; 16 for recurrent and hybrid models,
            which keep a whole state per sequence.
        n_gpu_layers: Layers to put on the GPU; -1: all; None: as many as fit, if the library was
            built for a GPU and there is one.
        split_mode: How to split a model over GPUs (`LLAMA_SPLIT_MODE_*`); None: by layer.
        main_gpu: The GPU that is used where `split_mode` means one.
        tensor_split: Share of the model for each GPU.
        use_mmap: Map the file instead of reading it.
        use_mlock: Keep the model in RAM.
        flash_attn: Flash attention on or off; None: on where the back end has it.
        type_k: Type of the K cache: a name such as "f16" or "q8_0", or a `GGML_TYPE_*`; None: f16.
        type_v: Type of the V cache, likewise.
        offload_kqv: Keep the KV cache on the GPU, for layers that are there.
        op_offload: Compute large batches on the GPU even for layers that are not there.
        swa_full: Keep all cells of sliding-window layers, so that they can be forked anywhere.
        rope_scaling_type: RoPE scaling (`LLAMA_ROPE_SCALING_TYPE_*`).
        rope_freq_base: RoPE base frequency.
        rope_freq_scale: RoPE frequency scale.
        yarn_ext_factor: YaRN extrapolation mix.
        yarn_attn_factor: YaRN magnitude scale.
        yarn_beta_fast: YaRN low correction dimension.
        yarn_beta_slow: YaRN high correction dimension.
        yarn_orig_ctx: YaRN original context size, in tokens.
        chat_template: Jinja source that replaces the model's own chat template; or "chatml".
        lora_path: Path of a LoRA adapter for the model, a GGUF file.
        lora_scale: The adapter's weight; 0: as if there were none.
        batch_invariant: Compute the same for a branch, bit for bit, whatever else is in the batch.
            It costs some speed and some room (a branch takes whole pages of 64 cells), and a few
            batches when the model is loaded, to see that it holds here.
        max_gap_ms: While branches write, others' prompts are computed in chunks that hold them up
            for about so many milliseconds, as far as the speed of the steps before can tell; 0: in
            batches of `n_batch`. A smaller value makes streams smoother, and long prompts later:
            each step also has the writing branches to compute. It does not hold with
            `batch_invariant`.
        verbose: Send all of llama.cpp's messages to stderr, not only errors. It holds for the whole
            process; the engine built last decides. Engines that differ in it alone are one.
        cache_dir: Folder of a store, where what prompts leave in the cache is kept for later and
            for other processes. None: what the environment variable `KVFORK_CACHE_DIR` says, and no
            store if it says nothing; "": no store.
        cache_size: Most bytes of all files in it: a number, or text such as "20GB". None: what
            `KVFORK_CACHE_SIZE` says, else 10 GB.
        model_files: Where `model_path` led: the file, or all files of a split model.
        lora_file: Where `lora_path` led.
        cache_bytes: What `cache_size` comes to.

    Raises:
        InvalidRequestError: A value is out of its range.
    """

    model_path: ModelPath = field(compare=False)
    n_ctx: ContextSize = None
    n_batch: BatchSize = 512
    n_ubatch: BatchSize = 512
    n_threads: Threads = None
    n_threads_batch: Threads = None
    n_seq_max: SequenceCount = None
    n_gpu_layers: GpuLayers = None
    split_mode: SplitMode = None
    main_gpu: GpuIndex = 0
    tensor_split: TensorSplit = None
    use_mmap: Switch = True
    use_mlock: Switch = False
    flash_attn: OptionalSwitch = None
    type_k: CellType = None
    type_v: CellType = None
    offload_kqv: Switch = True
    op_offload: OptionalSwitch = None
    swa_full: OptionalSwitch = None
    rope_scaling_type: RopeScaling = None
    rope_freq_base: RopeNumber = None
    rope_freq_scale: RopeNumber = None
    yarn_ext_factor: RopeNumber = None
    yarn_attn_factor: RopeNumber = None
    yarn_beta_fast: RopeNumber = None
    yarn_beta_slow: RopeNumber = None
    yarn_orig_ctx: OriginalContext = None
    chat_template: TemplateSource = None
    lora_path: AdapterPath = field(default=None, compare=False)
    lora_scale: AdapterScale = 1.0
    batch_invariant: Switch = False
    max_gap_ms: MaxGap = 250.0
    verbose: Switch = field(default=False, compare=False)
    cache_dir: StorePath = None
    cache_size: StoreSize = field(default=None, compare=False)
    model_files: tuple[str, ...] = field(init=False, repr=False)
    lora_file: str | None = field(init=False, repr=False)
    cache_bytes: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        with python_in_native_code:
            values = checked(EngineParams, given)
        lora = values["lora_path"]
        # one engine per model, whatever the path it is reached by
        values["model_files"] = _model_files(values["model_path"])
        values["lora_file"] = None if lora is None else os.path.realpath(lora)
        values["cache_dir"], values["cache_bytes"] = _store(values)
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _store(values: Mapping[str, Any]) -> tuple[str | None, int]:
    """Return the store's folder, if there is to be one, and its size in bytes."""
    path, size = values["cache_dir"], values["cache_size"]
    if path is None:
        path = os.path.expanduser(os.environ.get("KVFORK_CACHE_DIR", ""))
        path = os.path.abspath(path) if path else None
    if size is None:
        size = os.environ.get("KVFORK_CACHE_SIZE") or DEFAULT_SIZE
    return path or None, size_bytes("cache_size", size)


def _model_files(path: str) -> tuple[str, ...]:
    """Return a model's files, without links.

    llama.cpp finds the parts of a split model by the first one's name, which a link's target need
    not have: in the hub's cache it is a hash.
    """
    first = _FIRST_PART.match(path)
    if first:
        count = int(first["count"])
        parts = [f"{first['name']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
        if all(map(os.path.exists, parts)):
            return tuple(map(os.path.realpath, parts))
    # if a part is missing, llama.cpp says which
    return (os.path.realpath(path),)


def weights_key(params: EngineParams, llama: ModuleType) -> Hashable:
    """Return the parameters that decide what is loaded: engines with equal keys share weights.

    An adapter is a part of it. llama.cpp lists adapters in the model, so one that was added later
    could disturb those who compute with that.

    Args:
        params: How to run the model, in whatever words: without a GPU, all `n_gpu_layers` are 0.
        llama: The bindings of `llama.h`.
    """
    return (
        params.model_files,
        params.lora_file,
        params.n_gpu_layers if llama.llama_supports_gpu_offload() else 0,
        params.split_mode,
        params.main_gpu,
        params.tensor_split,
        params.use_mmap,
        params.use_mlock,
    )


def context_key(params: EngineParams, context: Any, llama: ModuleType, model: int) -> Hashable:
    """Return what `params` come to, beside the weights: equal keys make equal engines.

    `n_ctx=0` and the model's training context are the same, and so are `type_k=None`, "f16", "F16"
    and 1.

    Args:
        params: How to run the model, in whatever words.
        context: `struct llama_context_params` of these.
        llama: The bindings of `llama.h`.
        model: The model.
    """
    values = ((name, getattr(context, name)) for name, *_ in context._fields_)
    own = llama.llama_model_chat_template(model, None)
    template = None if params.chat_template is None else params.chat_template.encode()
    return (
        # callbacks and pointers are not set here
        tuple((name, value) for name, value in values if isinstance(value, (int, float))),
        None if template == own else template,
        None if params.lora_file is None else params.lora_scale,
        params.batch_invariant,
        params.max_gap_ms,
        params.cache_dir,
        params.cache_bytes if params.cache_dir else None,
    )


def model_params(params: EngineParams, llama: ModuleType, kvf: ctypes.CDLL) -> Any:
    """Return `struct llama_model_params`.

    Args:
        params: Where they come from.
        llama: The bindings of `llama.h`.
        kvf: The native library, which ends a load when the process ends.

    Raises:
        InvalidRequestError: `tensor_split` names more devices than llama.cpp can have.
    """
    native = llama.llama_model_default_params()
    native.progress_callback = llama.llama_progress_callback(("kvf_goes_on_loading", kvf))
    if params.n_gpu_layers is not None:
        native.n_gpu_layers = params.n_gpu_layers
    native.main_gpu = params.main_gpu
    if params.split_mode is not None:
        native.split_mode = params.split_mode
    native.load_mode = {
        (True, True): llama.LLAMA_LOAD_MODE_MMAP_MLOCK,
        (True, False): llama.LLAMA_LOAD_MODE_MMAP,
        (False, True): llama.LLAMA_LOAD_MODE_MLOCK,
        (False, False): llama.LLAMA_LOAD_MODE_NONE,
    }[params.use_mmap, params.use_mlock]
    if params.tensor_split is not None:
        devices = llama.LLAMA_MAX_DEVICES
        require(
            len(params.tensor_split) <= devices,
            "tensor_split",
            params.tensor_split,
            f"pass at most {devices} numbers",
        )
        # the struct keeps the array alive
        native.tensor_split = (llama.ctypes.c_float * devices)(*params.tensor_split)
    return native


def context_params(
    params: EngineParams, llama: ModuleType, model: int | None, n_ctx: int = 0
) -> Any:
    """Return `struct llama_context_params`.

    Args:
        params: Where they come from.
        llama: The bindings of `llama.h`.
        model: The model, which decides what 0 and None mean; None: it is not loaded yet.
        n_ctx: Cells, if `params` leave it open; 0: the training context.

    Raises:
        InvalidRequestError: `type_k` or `type_v` names no type.
    """
    native = llama.llama_context_default_params()
    native.n_ctx = params.n_ctx or n_ctx
    state_per_sequence = False
    if model is not None:
        native.n_ctx = native.n_ctx or llama.llama_model_n_ctx_train(model)
        state_per_sequence = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(
            model
        )
    native.n_batch = min(params.n_batch, native.n_ctx or params.n_batch)
    native.n_ubatch = min(params.n_ubatch, native.n_batch)
    native.n_seq_max = params.n_seq_max or (16 if state_per_sequence else 64)
    native.n_threads = params.n_threads or default_threads()
    native.n_threads_batch = params.n_threads_batch or native.n_threads
    native.offload_kqv = params.offload_kqv
    native.kv_unified = True
    native.flash_attn_type = {
        None: llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
        True: llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        False: llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[params.flash_attn]
    for name in ("type_k", "type_v"):
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, _ggml_type(name, value, llama))
    for name in (
        "op_offload",
        "swa_full",
        "rope_scaling_type",
        "rope_freq_base",
        "rope_freq_scale",
        "yarn_ext_factor",
        "yarn_attn_factor",
        "yarn_beta_fast",
        "yarn_beta_slow",
        "yarn_orig_ctx",
    ):
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, value)
    return native


def _ggml_type(name: str, value: str | int, llama: ModuleType) -> int:
    prefix = "GGML_TYPE_"
    types: dict[str, int] = {
        key.removeprefix(prefix).lower(): number
        for key, number in vars(llama).items()
        if key.startswith(prefix) and key != "GGML_TYPE_COUNT"
    }
    number = types.get(value.lower()) if isinstance(value, str) else value
    if number is None or number not in types.values():
        raise InvalidRequestError(
            f"{name}={value!r} is not possible: pass one of {', '.join(sorted(types))}."
        )
    return number
