// Fills memory in blocks of 1 MiB: with C++, whose failure nobody catches, or with C, which ends the process.
#include <cstdio>
#include <cstdlib>
#include <vector>

static void fill(char* block) {
    for (int i = 0; i < 1 << 20; i += 4096) block[i] = 1;
}

extern "C" void grow() {
    std::vector<char*> kept;
    for (;;) {
        kept.push_back(new char[1 << 20]);
        fill(kept.back());
    }
}

extern "C" void grow_or_exit() {
    for (;;) {
        char* block = static_cast<char*>(malloc(1 << 20));
        if (block == nullptr) {
            fprintf(stderr, "Memory allocation still failed after 10 retries, giving up.\n");
            exit(1);
        }
        fill(block);
    }
}
