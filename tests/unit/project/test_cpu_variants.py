"""Several builds of the CPU back end are one library, and the best that runs here is taken."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the wheel for x86-64 only"
)

# every build has an inline function of its own, and one that nobody outside calls
BACKEND = """
#include <vector>
int internal() { return KIND; }
inline int of_all_builds(const std::vector<int> & values) { return values.back() + internal(); }
extern "C" void * ggml_backend_cpu_reg(void) {
    static int answer;
    answer = of_all_builds(std::vector<int>(3, 7));
    return &answer;
}
extern "C" void ggml_cpu_set_plain_weights(bool) {}
extern "C" int ggml_backend_cpu_other(void) { return 1; }
"""
WITH_A_CONSTRUCTOR = BACKEND + "int early = internal();"
PROGRAM = """
#include "variants/choose.h"
#include <cstdio>
extern "C" void * ggml_backend_cpu_reg(void);
static int before_main = *static_cast<int *>(ggml_backend_cpu_reg());
int main() { std::printf("%s %d", kvf::cpu_variant(), before_main); }
"""
CALLS_ANOTHER = (
    PROGRAM
    + """
extern "C" int ggml_backend_cpu_other(void);
int other = ggml_backend_cpu_other();
"""
)
KINDS = """
KIND(fancy, __builtin_cpu_supports("avx512f") && false)
KIND(good, true)
KIND(plain, true)
"""


def run(*command, **options):
    return subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, **options
    )


def variants(folder, source, program=PROGRAM):
    """Build three back ends, and put them into one; return how that ended."""
    (folder / "backend.cpp").write_text(source)
    (folder / "program.cpp").write_text(program)
    (folder / "kinds.inc").write_text(KINDS)
    archives = []
    for number, kind in enumerate(("fancy", "good", "plain"), 1):
        target = folder / f"{kind}.cpp.o"
        flags = ("-O1", "-fPIC", f"-DKIND={number * 100}", "-c", "-o", target)
        run("c++", *flags, folder / "backend.cpp", check=True)
        run("ar", "rcs", folder / f"{kind}.a", target, check=True)
        archives.append(f"{kind}={folder / f'{kind}.a'}")
    ggml = ROOT / "build" / "llama.cpp" / "ggml" / "include"
    includes = [f"-I{path}" for path in (ROOT / "csrc", folder, ggml)]
    own = ("-std=c++17", "-DKVFORK_CPU_VARIANTS", *includes, "-fPIC", "-c")
    run("c++", *own, "-o", folder / "program.o", folder / "program.cpp", check=True)
    run("c++", *own, "-o", folder / "choose.o", ROOT / "csrc/variants/choose.cpp", check=True)
    tools = ("--nm", "nm", "--ld", "ld", "--objcopy", "objcopy", "--objdump", "objdump")
    script = (sys.executable, ROOT / "scripts" / "cpu_variants.py", "--output", folder, *tools)
    return run(*script, "--callers", folder / "program.o", "--kinds", *archives)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    done = variants(folder, BACKEND)
    assert done.returncode == 0, done.stderr
    objects = [folder / name for name in ("program.o", "choose.o", "fancy.o", "good.o", "plain.o")]
    run("c++", "-o", folder / "program", *objects, check=True)
    return folder / "program"


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        (None, "good 207"),
        ("plain", "plain 307"),
        ("fancy", "good 207"),  # this processor cannot
        ("other", "good 207"),
        ("", "good 207"),
    ],
)
def test_the_best_that_runs_is_taken(program, wanted, printed):
    environment = {n: v for n, v in os.environ.items() if n != "KVFORK_CPU_VARIANT"}
    if wanted is not None:
        environment["KVFORK_CPU_VARIANT"] = wanted
    assert run(program, env=environment, check=True).stdout == printed


def test_a_back_end_that_runs_code_when_it_is_loaded_is_refused(tmp_path):
    done = variants(tmp_path, WITH_A_CONSTRUCTOR)
    assert done.returncode != 0
    assert "has code that runs when the library is loaded" in done.stderr


def test_a_function_that_would_belong_to_no_kind_is_refused(tmp_path):
    done = variants(tmp_path, BACKEND, CALLS_ANOTHER)
    assert done.returncode != 0
    assert "ggml_backend_cpu_other would be called in no kind" in done.stderr
