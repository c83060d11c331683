# llama-server linked to a libllama and a ggml that are compiled already, so that it runs the same machine code as the program
# they were compiled for. servers.sh puts this in place of the CMakeLists.txt at the top of llama.cpp's source.
#
# LLAMA_LIBRARIES is the folder of the libraries, LLAMA_BUILD_COMMIT what the server calls its version.
cmake_minimum_required(VERSION 3.18)
project(llama.cpp C CXX)

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_BUILD_RPATH ${LLAMA_LIBRARIES})
set(BUILD_SHARED_LIBS OFF)
set(LLAMA_BUILD_COMMON ON)
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_UI OFF)
set(LLAMA_USE_PREBUILT_UI OFF)
set(LLAMA_SUBPROCESS ON)
find_package(Threads REQUIRED)
include(cmake/common.cmake)
include(cmake/license.cmake)

foreach(name ggml-base ggml llama)
    find_library(compiled_${name} ${name} PATHS ${LLAMA_LIBRARIES} NO_DEFAULT_PATH REQUIRED)
    add_library(${name} SHARED IMPORTED GLOBAL)
    set_target_properties(${name} PROPERTIES IMPORTED_LOCATION ${compiled_${name}})
    target_include_directories(${name} INTERFACE include ggml/include)
endforeach()
target_link_libraries(ggml INTERFACE ggml-base)
target_link_libraries(llama INTERFACE ggml)

foreach(part vendor common tools/mtmd tools/ui tools/server)
    add_subdirectory(${part})
endforeach()
