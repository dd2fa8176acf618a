/* Runs a signature of an export with TensorFlow's C library alone:

     run_export VERSION_FOLDER INPUT OUTPUT DIMENSION... < input.f32 > output.f32

   INPUT and OUTPUT are tensors of the graph, `operation:index`, as `saved_model_cli show` lists them; the input
   is float32 of the dimensions, row by row, and so is the output. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

#define MAX_DIMENSIONS 8

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", what, TF_Message(status));
    exit(1);
  }
}

static TF_Output find(TF_Graph *graph, const char *name) {
  char operation[1024];
  int index = 0;
  snprintf(operation, sizeof operation, "%s", name);
  char *colon = strrchr(operation, ':');
  if (colon != NULL) {
    *colon = 0;
    index = atoi(colon + 1);
  }
  TF_Output output = {TF_GraphOperationByName(graph, operation), index};
  if (output.oper == NULL) {
    fprintf(stderr, "the graph has no operation %s\n", operation);
    exit(1);
  }
  return output;
}

int main(int argc, char **argv) {
  int num_dimensions = argc - 4;
  if (num_dimensions < 1 || num_dimensions > MAX_DIMENSIONS) {
    fprintf(stderr, "usage: run_export VERSION_FOLDER INPUT OUTPUT DIMENSION...\n");
    return 2;
  }
  int64_t dimensions[MAX_DIMENSIONS];
  size_t num_values = 1;
  for (int i = 0; i < num_dimensions; i++) {
    dimensions[i] = atoll(argv[4 + i]);
    num_values *= (size_t)dimensions[i];
  }
  TF_Tensor *input =
      TF_AllocateTensor(TF_FLOAT, dimensions, num_dimensions, num_values * sizeof(float));
  if (fread(TF_TensorData(input), sizeof(float), num_values, stdin) != num_values) {
    fprintf(stderr, "expected %zu values of float32\n", num_values);
    return 1;
  }

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, "loading");

  TF_Output feed = find(graph, argv[2]), fetch = find(graph, argv[3]);
  TF_Tensor *output = NULL;
  TF_SessionRun(session, NULL, &feed, &input, 1, &fetch, &output, 1, NULL, 0, NULL, status);
  check(status, "running");
  size_t size = TF_TensorByteSize(output);
  if (fwrite(TF_TensorData(output), 1, size, stdout) != size) {
    perror("writing");
    return 1;
  }

  TF_DeleteTensor(output);
  TF_DeleteTensor(input);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
