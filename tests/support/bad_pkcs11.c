/* A PKCS#11 module for tests: SoftHSM, whose C_Sign does what a file says: the one named by BAD_PKCS11, else ORDER.
 *
 * "ok", "sleep SECONDS", "hang" (until the file says something else), "crash", "wrong" (a signature with one bit
 * changed), or "error CODE" in hexadecimal. Where LOGINS names a file, each C_Login adds a line to it.
 * TEST ONLY. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef ORDER
#define ORDER NULL
#endif
#ifndef LOGINS
#define LOGINS NULL
#endif

typedef unsigned long rv;
typedef struct { unsigned char version[8]; void *function[68]; } list;
typedef rv (*get_list)(list **);
typedef rv (*sign)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *);
typedef rv (*login)(unsigned long, unsigned long, unsigned char *, unsigned long);
enum { LOGIN = 18, SIGN = 43 };

static list own;
static sign real_sign;
static login real_login;

static void read_order(char order[64]) {
    const char *given = getenv("BAD_PKCS11");
    const char *path = given ? given : ORDER;
    FILE *file = path ? fopen(path, "r") : NULL;
    strcpy(order, "ok");
    if (!file) return;
    if (!fgets(order, 64, file)) strcpy(order, "ok");
    fclose(file);
}

static rv bad_sign(unsigned long session, unsigned char *data, unsigned long size, unsigned char *out, unsigned long *room) {
    char order[64];
    read_order(order);
    while (!strncmp(order, "hang", 4)) {
        usleep(20000);
        read_order(order);
    }
    if (!strncmp(order, "sleep ", 6)) sleep((unsigned) atoi(order + 6));
    if (!strncmp(order, "crash", 5)) *(volatile int *) 8 = 1;
    if (!strncmp(order, "error ", 6)) return strtoul(order + 6, NULL, 16);
    rv answer = real_sign(session, data, size, out, room);
    if (!strncmp(order, "wrong", 5) && out && answer == 0) out[*room / 2] ^= 1;
    return answer;
}

static rv counted_login(unsigned long session, unsigned long user, unsigned char *pin, unsigned long size) {
    const char *path = LOGINS;
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fputs("login\n", file);
        fclose(file);
    }
    return real_login(session, user, pin, size);
}

rv C_GetFunctionList(list **given) {
    void *real = dlopen(REAL, RTLD_NOW);
    get_list get = real ? (get_list) dlsym(real, "C_GetFunctionList") : NULL;
    list *theirs;
    if (!get || get(&theirs) != 0) return 5;
    own = *theirs;
    real_sign = (sign) own.function[SIGN];
    own.function[SIGN] = (void *) bad_sign;
    real_login = (login) own.function[LOGIN];
    own.function[LOGIN] = (void *) counted_login;
    *given = &own;
    return 0;
}
