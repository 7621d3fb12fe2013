# CMake's toolchain for Windows on x86-64 by mingw-w64, from another system: apt-get install g++-mingw-w64-x86-64
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR AMD64)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix) # the one that has std::thread
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
