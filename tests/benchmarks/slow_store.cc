/* A file system for TensorFlow, slow://PATH: the local file PATH, but every request waits for an answer first.
 *
 * SLOW_STORE_MILLISECONDS in the environment says how long; it reads only. Compiled and loaded by
 * `many_shards.py` through tf.experimental.register_filesystem_plugin.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tensorflow/c/experimental/filesystem/filesystem_interface.h"

static const char kScheme[] = "slow";

static void wait_for_an_answer(void) {
  const char* text = getenv("SLOW_STORE_MILLISECONDS");
  const long milliseconds = text ? atol(text) : 0;
  const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static void set_status(TF_Status* status, int error, const char* path) {
  if (error) {
    TF_SetStatusFromIOError(status, error, path);
  } else {
    TF_SetStatus(status, TF_OK, "");
  }
}

// TensorFlow has taken the scheme off a path before it comes here.
static void open_file(const TF_Filesystem* filesystem, const char* path, TF_RandomAccessFile* file,
                      TF_Status* status) {
  wait_for_an_answer();
  int* descriptor = static_cast<int*>(malloc(sizeof(int)));
  *descriptor = open(path, O_RDONLY | O_CLOEXEC);
  set_status(status, *descriptor < 0 ? errno : 0, path);
  if (*descriptor < 0) {
    free(descriptor);
    descriptor = NULL;
  }
  file->plugin_file = descriptor;
}

static void close_file(TF_RandomAccessFile* file) {
  close(*static_cast<int*>(file->plugin_file));
  free(file->plugin_file);
}

static int64_t read_file(const TF_RandomAccessFile* file, uint64_t offset, size_t n, char* buffer,
                         TF_Status* status) {
  wait_for_an_answer();
  int64_t done = 0;
  while (static_cast<size_t>(done) < n) {
    const ssize_t now = pread(*static_cast<int*>(file->plugin_file), buffer + done, n - done, offset + done);
    if (now < 0) {
      TF_SetStatusFromIOError(status, errno, "read");
      return -1;
    }
    if (now == 0) {
      TF_SetStatus(status, TF_OUT_OF_RANGE, "end of file");
      return done;
    }
    done += now;
  }
  TF_SetStatus(status, TF_OK, "");
  return done;
}

static void stat_file(const TF_Filesystem* filesystem, const char* path, TF_FileStatistics* found,
                      TF_Status* status) {
  wait_for_an_answer();
  struct stat of_file;
  const int error = stat(path, &of_file) ? errno : 0;
  if (!error) {
    found->length = of_file.st_size;
    found->mtime_nsec = 0;
    found->is_directory = S_ISDIR(of_file.st_mode);
  }
  set_status(status, error, path);
}

static void path_exists(const TF_Filesystem* filesystem, const char* path, TF_Status* status) {
  wait_for_an_answer();
  set_status(status, access(path, F_OK) ? errno : 0, path);
}

static void init(TF_Filesystem* filesystem, TF_Status* status) { TF_SetStatus(status, TF_OK, ""); }

static void cleanup(TF_Filesystem* filesystem) {}

void TF_InitPlugin(TF_FilesystemPluginInfo* info) {
  info->plugin_memory_allocate = malloc;
  info->plugin_memory_free = free;
  info->num_schemes = 1;
  info->ops = new TF_FilesystemPluginOps();
  info->ops->scheme = strdup(kScheme);
  TF_SetFilesystemVersionMetadata(info->ops);
  info->ops->random_access_file_ops = new TF_RandomAccessFileOps();
  info->ops->random_access_file_ops->cleanup = close_file;
  info->ops->random_access_file_ops->read = read_file;
  info->ops->filesystem_ops = new TF_FilesystemOps();
  info->ops->filesystem_ops->init = init;
  info->ops->filesystem_ops->cleanup = cleanup;
  info->ops->filesystem_ops->new_random_access_file = open_file;
  info->ops->filesystem_ops->stat = stat_file;
  info->ops->filesystem_ops->path_exists = path_exists;
}
