/* A stand-in for libnvidia-ml.so.1: the functions that the probe calls, driven by a file that is read at every
   call. GPU i draws 100 * (i + 1) W with a 2 W ripple at each update. Lines of the file are "key=number". */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7, GPU_IS_LOST = 15 };

typedef struct { int index; int mig; } device;
static device gpus[4] = {{0, 0}, {1, 0}, {2, 0}, {3, 0}};
static device slice = {1, 1};

static long setting(const char *key, long otherwise) {
  FILE *file = fopen(getenv("NVML_SCENARIO"), "r");
  char line[128];
  size_t length = strlen(key);
  long value = otherwise;
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, key, length) && line[length] == '=') value = atol(line + length + 1);
  if (file) fclose(file);
  return value;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int lost(device *d) { return setting("lost", -1) == d->index; }
/* Boards update at the same pace, each at times of its own. */
static long update(device *d) { return (long)(now() * 1000 / setting("period_ms", 100) + 0.37 * d->index); }
static double watts(device *d) { return 100.0 * (d->index + 1); }

int nvmlInitWithFlags(unsigned flags) { return (int)setting("init_error", OK); }
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "470.1"); return OK; }
const char *nvmlErrorString(int code) {
  return code == GPU_IS_LOST ? "GPU is lost" : code == NOT_SUPPORTED ? "Not Supported" : "Some error";
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)setting("gpus", 1); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
  *out = &gpus[index];
  return setting("forbidden", -1) == index ? NO_PERMISSION : OK;
}
int nvmlDeviceGetUUID(device *d, char *out, unsigned size) {
  snprintf(out, size, d->mig ? "MIG-%d" : "GPU-%d", d->index);
  return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device **out) {
  int index = atoi(uuid + 4);
  if (!strncmp(uuid, "MIG-", 4)) { *out = &slice; return index == 7 ? OK : NOT_FOUND; }
  if (index >= setting("gpus", 1)) return NOT_FOUND;
  *out = &gpus[index];
  return OK;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device *d, device **out) { *out = &gpus[d->index]; return OK; }
int nvmlDeviceGetIndex(device *d, unsigned *out) { *out = (unsigned)d->index; return d->mig ? INVALID : OK; }
int nvmlDeviceGetName(device *d, char *out, unsigned size) {
  snprintf(out, size, "NVIDIA Test Board");
  return setting("nameless", 0) ? GPU_IS_LOST : OK;
}
int nvmlDeviceGetArchitecture(device *d, unsigned *out) { *out = (unsigned)setting("architecture", 8); return OK; }

int nvmlDeviceGetTotalEnergyConsumption(device *d, unsigned long long *out) {
  if (lost(d)) return GPU_IS_LOST;
  if (d->mig || setting("no_counter", 0)) return NOT_SUPPORTED;
  *out = (unsigned long long)(watts(d) * update(d) * setting("period_ms", 100));
  return OK;
}
static int milliwatts(device *d, unsigned *out) {
  if (lost(d)) return GPU_IS_LOST;
  if (setting("no_power", 0)) return NOT_SUPPORTED;
  *out = (unsigned)((watts(d) + (update(d) / setting("repeats", 1) % 2 ? 2 : -2)) * 1000 * setting("power_percent", 100) / 100);
  return OK;
}
int nvmlDeviceGetPowerUsage(device *d, unsigned *out) { return milliwatts(d, out); }

typedef struct {
  uint32_t field, scope;
  int64_t timestamp, latency;
  uint32_t type;
  int result;
  union { double d; unsigned ui; unsigned long long ull; } value;
} field_value;
int nvmlDeviceGetFieldValues(device *d, int count, field_value *values) {
  for (int i = 0; i < count; i++) {
    int module = values[i].scope == 1 && setting("module", 0);
    int known = (values[i].scope == 0 || module || setting("no_scopes", 0)) && (values[i].field == 186 || (values[i].field == 185 && !setting("no_average", 0)));
    if (values[i].field == 186 && setting("no_instant", 0)) known = 0;
    values[i].result = known ? milliwatts(d, &values[i].value.ui) : NOT_SUPPORTED;
    /* A module draws 400 W, whichever of its GPUs is asked. */
    if (module && values[i].result == OK) values[i].value.ui += (unsigned)(400000 - watts(d) * 1000);
  }
  return OK;
}

int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *out) { *out = 55; return lost(d) ? GPU_IS_LOST : OK; }
int nvmlDeviceGetCpuAffinity(device *d, unsigned words, unsigned long *out) {
  memset(out, 0, words * sizeof *out);
  out[setting("gpus_per_module", 1) > 1 ? 0 : d->index] = 0xff;
  return OK;
}
int nvmlDeviceGetClockInfo(device *d, int type, unsigned *out) { *out = 1500; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(device *d, unsigned *out) { *out = 350000; return OK; }
int nvmlDeviceGetPowerManagementLimit(device *d, unsigned *out) { *out = 1000 * (unsigned)setting("cap_w", 350); return OK; }
int nvmlDeviceGetApplicationsClock(device *d, int type, unsigned *out) {
  *out = (unsigned)setting("application_clock", 0);
  return *out ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetCurrentClocksEventReasons(device *d, unsigned long long *out) {
  *out = (unsigned long long)setting("throttle", 0);
  return OK;
}
typedef struct { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; } utilization;
/* Each process that computed has one entry, of the last half second. */
int nvmlDeviceGetProcessUtilization(device *d, utilization *out, unsigned *count, unsigned long long since_us) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  unsigned long long at_us = (unsigned long long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
  at_us -= at_us % 500000;
  long pids[3] = {setting("pid", 0), setting("other_pid", 0), 4};
  long busy[3] = {setting("util", 0), setting("other_util", 0), setting("faulty_util", 0)};
  unsigned found = 0, room = *count;
  if (setting("no_utilization", 0)) return NOT_SUPPORTED;
  for (int i = 0; i < 3; i++)
    if (busy[i] && at_us > since_us) {
      if (found < room) out[found] = (utilization){(unsigned)pids[i], at_us, (unsigned)busy[i], 0, 0, 0};
      found++;
    }
  *count = found;
  return !found ? NOT_FOUND : found > room ? TOO_SMALL : OK;
}
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } process;
int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process *out) {
  long pids[2] = {setting("pid", 0), setting("other_pid", 0)};
  unsigned found = 0, room = *count;
  for (int i = 0; i < 2; i++)
    if (pids[i]) {
      if (found < room) out[found] = (process){(unsigned)pids[i], 1, 0, 0};
      found++;
    }
  *count = found;
  return found > room ? TOO_SMALL : OK;
}
