/* A PKCS#11 module for tests: SoftHSM, whose C_Sign does what the file named by BAD_PKCS11 says.
 *
 * "ok", "sleep SECONDS", "crash", "wrong" (a signature with one bit changed), or "error CODE" in hexadecimal.
 * TEST ONLY. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;
typedef struct { unsigned char version[8]; void *function[68]; } list;
typedef rv (*get_list)(list **);
typedef rv (*sign)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *);
enum { SIGN = 43 };

static list own;
static sign real_sign;

static rv bad_sign(unsigned long session, unsigned char *data, unsigned long size, unsigned char *out, unsigned long *room) {
    char order[64] = "ok";
    const char *path = getenv("BAD_PKCS11");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        if (!fgets(order, sizeof order, file)) strcpy(order, "ok");
        fclose(file);
    }
    if (!strncmp(order, "sleep ", 6)) sleep((unsigned) atoi(order + 6));
    if (!strncmp(order, "crash", 5)) *(volatile int *) 8 = 1;
    if (!strncmp(order, "error ", 6)) return strtoul(order + 6, NULL, 16);
    rv answer = real_sign(session, data, size, out, room);
    if (!strncmp(order, "wrong", 5) && out && answer == 0) out[*room / 2] ^= 1;
    return answer;
}

rv C_GetFunctionList(list **given) {
    void *real = dlopen(REAL, RTLD_NOW);
    get_list get = real ? (get_list) dlsym(real, "C_GetFunctionList") : NULL;
    list *theirs;
    if (!get || get(&theirs) != 0) return 5;
    own = *theirs;
    real_sign = (sign) own.function[SIGN];
    own.function[SIGN] = (void *) bad_sign;
    *given = &own;
    return 0;
}
