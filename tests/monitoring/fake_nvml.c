/* A stand-in for libnvidia-ml.so.1: two GPUs, or as many as the environment says, with the C functions that are read.

   FAKE_NVML_GPUS     how many GPUs there are (2)
   FAKE_NVML_LOST     the number of one that has fallen off the bus
   FAKE_NVML_REFUSES  the number of one that tells neither power nor utilization nor memory
   FAKE_NVML_FILE     a file; while it exists, the driver is gone
   FAKE_NVML_PROCESS  the pid of a process that has taken 700 MiB of the first one */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };

typedef struct { unsigned index; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } Process;

static Device devices[64];
static int sessions = 0;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

static int driver_is_gone(void) {
    const char *path = getenv("FAKE_NVML_FILE");
    return path && access(path, F_OK) == 0;
}

static int state_of(const Device *device) {
    if (!sessions || driver_is_gone()) return UNINITIALIZED;
    return (int)device->index == number("FAKE_NVML_LOST", -1) ? GPU_IS_LOST : SUCCESS;
}

static int refuses(const Device *device) { return (int)device->index == number("FAKE_NVML_REFUSES", -1); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (driver_is_gone()) return DRIVER_NOT_LOADED;
    sessions++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (!sessions) return UNINITIALIZED;
    sessions--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "Some NVML error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    snprintf(text, length, "535.104.12");
    return sessions && !driver_is_gone() ? SUCCESS : UNINITIALIZED;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 12020;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)number("FAKE_NVML_GPUS", 2);
    return sessions && !driver_is_gone() ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= (unsigned)number("FAKE_NVML_GPUS", 2)) return INVALID_ARGUMENT;
    devices[index].index = index;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    unsigned index;
    if (sscanf(uuid, "GPU-%u", &index) != 1) return INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *processes) {
    unsigned pid = (unsigned)number("FAKE_NVML_PROCESS", 0);
    unsigned there = pid && !device->index;
    if (*count < there) {
        *count = there;
        return INSUFFICIENT_SIZE;
    }
    *count = there;
    if (there) processes[0] = (Process){pid, 700ULL << 20, 0, 0};
    return state_of(device);
}

int nvmlDeviceGetName(Device *device, char *text, unsigned length) {
    snprintf(text, length, "NVIDIA RTX 4090");
    return state_of(device);
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
    snprintf(text, length, "GPU-%08u", device->index);
    return state_of(device);
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    if (refuses(device)) return NOT_SUPPORTED;
    memory->total = 24576ULL << 20;
    memory->used = (19276ULL - 1000 * device->index) << 20;
    memory->free = memory->total - memory->used;
    return state_of(device);
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    if (refuses(device)) return NOT_SUPPORTED;
    rates->gpu = 89 - 13 * device->index;
    rates->memory = 40;
    return state_of(device);
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *degrees) {
    (void)sensor;
    *degrees = 72 - 4 * device->index;
    return state_of(device);
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    if (refuses(device)) return NOT_SUPPORTED;
    *milliwatts = 380400 - 40000 * device->index;
    return state_of(device);
}

int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    if (refuses(device)) return NOT_SUPPORTED;
    *milliwatts = 450000;
    return state_of(device);
}
