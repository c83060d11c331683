# llama.cpp without what joulebench doesn't load. llama-cpp-python insists on the helpers of llama.cpp's own programs; CMake reads
# this file after that and before llama.cpp looks.
set(LLAMA_BUILD_COMMON OFF)
