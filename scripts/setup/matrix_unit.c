/* Ends with 0 where programs may use the processor's matrix unit (AMX): some virtual machines show it, and fault. */
#include <sys/syscall.h>
#include <unistd.h>

int main(void) {
    /* Palette 1; tile 0 has 16 rows of 64 bytes. */
    static const unsigned char tiles[64] = {[0] = 1, [16] = 64, [48] = 16};
    /* ARCH_REQ_XCOMP_PERM: asks the kernel for the tiles' data, feature 18 of the processor's state. */
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 1;
    __asm__ volatile("ldtilecfg %0\n\ttilezero %%tmm0\n\ttilerelease" : : "m"(tiles));
    return 0;
}
