#pragma once

namespace kvf {

// Which of the CPU back ends in this library is used: a name of llama.cpp's for a kind of processor, such as "haswell"; ""
// if there is one only, compiled for the machine that it was built on.
const char * cpu_variant();

} // namespace kvf
