/* A stand-in for libamd_smi.so: the functions that the probe calls, driven by a file that is read at every call; the
   test adds an empty one for each other that the package looks up. GPU i draws 100 * (i + 1) W. Lines of the file are
   "key=number". Structures are those of ROCm 7. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, NOT_SUPPORTED = 2, NO_PERM = 10, NOT_FOUND = 31 };
static int gpus[8] = {0, 1, 2, 3, 4, 5, 6, 7};

static long setting(const char *key, long otherwise) {
  FILE *file = fopen(getenv("AMDSMI_SCENARIO"), "r");
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

static int lost(int *gpu) { return setting("lost", -1) == *gpu; }
static long update(void) { return (long)(now() * 1000 / setting("period_ms", 20)); }
static int socket_of(int *gpu) { return *gpu / (int)setting("partitions", 1); }

int amdsmi_init(uint64_t flags) { return (int)setting("init_error", OK); }
int amdsmi_shut_down(void) { return OK; }
int amdsmi_get_socket_handles(uint32_t *count, void **out) {
  *count = (uint32_t)setting("gpus", 1);
  for (uint32_t i = 0; out && i < *count; i++) out[i] = &gpus[i];
  return OK;
}
int amdsmi_get_processor_handles(int *socket, uint32_t *count, void **out) {
  *count = 1;
  if (out) out[0] = socket;
  return OK;
}
int amdsmi_get_gpu_device_bdf(int *gpu, uint64_t *out) {
  int partitions = (int)setting("partitions", 1);
  *out = (uint64_t)(0x0c + socket_of(gpu)) << 8 | (uint64_t)(*gpu % partitions);
  return OK;
}
int amdsmi_get_gpu_device_uuid(int *gpu, uint32_t *length, char *out) {
  snprintf(out, *length, "a1ff74a1-0000-1000-80a1-b2c3d4e5f6%02x", *gpu);
  return OK;
}
typedef struct {
  char market_name[256];
  uint32_t vendor_id;
  char vendor_name[256];
  uint32_t subvendor_id;
  uint64_t device_id;
  uint32_t rev_id;
  char asic_serial[256];
  uint32_t oam_id, units, padding;
  uint64_t version;
  uint32_t subsystem_id, reserved[21];
} __attribute__((packed)) asic;
int amdsmi_get_gpu_asic_info(int *gpu, asic *out) {
  memset(out, 0, sizeof *out);
  snprintf(out->market_name, sizeof out->market_name, "AMD Test Board");
  snprintf(out->asic_serial, sizeof out->asic_serial, "A1B2C3D4E5F607%02X", socket_of(gpu));
  return OK;
}
int amdsmi_get_gpu_enumeration_info(int *gpu, void *out) { return NOT_SUPPORTED; }

int amdsmi_get_energy_count(int *gpu, uint64_t *count, float *resolution, uint64_t *timestamp) {
  if (lost(gpu)) return NOT_FOUND;
  if (setting("no_counter", 0) || *gpu % setting("partitions", 1)) return NOT_SUPPORTED;
  long at = setting("stuck", 0) ? 7 : update();
  double seconds = at * setting("period_ms", 20) * 1e-3;
  *resolution = 15.259f;
  *count = (uint64_t)(100.0 * (socket_of(gpu) + 1) * seconds / 15.259e-6);
  /* The device's clock began long before this machine's. */
  *timestamp = (uint64_t)((seconds + 5000.0) * 1e9 / setting("tick_ns", 1));
  if (setting("no_stamp", 0)) *timestamp = 0;
  return OK;
}
typedef struct {
  uint64_t socket_power;
  uint32_t current_socket_power, average_socket_power;
  uint64_t voltages[3];
  uint32_t power_limit, padding;
  uint64_t reserved[18];
} __attribute__((packed)) power_info;
int amdsmi_get_power_info(int *gpu, power_info *out) {
  uint32_t watts = (uint32_t)(100 * (socket_of(gpu) + 1) + (update() % 2 ? 2 : -2));
  memset(out, 0, sizeof *out);
  if (lost(gpu)) return NOT_FOUND;
  if (setting("no_power", 0)) return NOT_SUPPORTED;
  out->socket_power = 0xFFFF;
  out->current_socket_power = setting("old", 0) ? 0xFFFF : watts;
  out->average_socket_power = setting("old", 0) ? watts : 0xFFFF;
  if (setting("shifted", 0)) out->current_socket_power = 812; /* what is a voltage in another version */
  return OK;
}
typedef struct { uint32_t major, minor, release, padding; const char *build; } __attribute__((packed)) version;
int amdsmi_get_lib_version(version *out) {
  *out = (version){(uint32_t)setting("library", 26), 0, 2, 0, "t"};
  return OK;
}
int amdsmi_get_temp_metric(int *gpu, int type, int metric, int64_t *out) { *out = 61; return OK; }
typedef struct { uint32_t clk, min, max; uint8_t locked, sleep, padding[2]; uint32_t reserved[4]; } clock_info;
int amdsmi_get_clock_info(int *gpu, int type, clock_info *out) {
  memset(out, 0, sizeof *out);
  out->clk = 2100;
  return OK;
}
typedef struct { uint64_t cap, rest[7]; } cap_info;
int amdsmi_get_power_cap_info(int *gpu, uint32_t sensor, cap_info *out) { *out = (cap_info){750000000, {0}}; return OK; }
typedef struct {
  char name[256];
  uint32_t pid, padding;
  uint64_t mem, gfx, enc;
  uint32_t reserved_engine[12];
  uint64_t memory[3];
  uint32_t reserved_memory[10];
  char container[256];
  uint32_t occupancy, reserved[11];
} __attribute__((packed)) process;
int amdsmi_get_gpu_process_list(int *gpu, uint32_t *count, process *out) {
  long pids[2] = {setting("pid", 0), setting("other_pid", 0)};
  uint32_t found = 0;
  for (int i = 0; i < 2; i++)
    if (pids[i]) {
      memset(&out[found], 0, sizeof out[found]);
      out[found++].pid = (uint32_t)pids[i];
    }
  *count = found;
  return OK;
}
