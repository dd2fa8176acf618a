# What workers on other machines run: Apache Beam's own image with tfsound and what it needs, all of one version.
# Python must be that of the launching process, to its second number, and so must tfsound. From the checkout:
#
#   docker build --build-arg PYTHON=3.11 -f beam/worker.Dockerfile -t REGISTRY/tfsound:0.1.0 .
#   docker push REGISTRY/tfsound:0.1.0
#   tfsound examples ... --runner DataflowRunner --sdk_container_image=REGISTRY/tfsound:0.1.0
ARG PYTHON=3.11
FROM apache/beam_python${PYTHON}_sdk:2.77.0

RUN pip install --no-cache-dir \
    'apache-beam[gcp,tfrecord]==2.77.0' \
    av==18.1.0 \
    h5py==3.14.0 \
    keras==3.15.1 \
    matplotlib==3.11.2 \
    numpy==2.4.6 \
    pyarrow==25.0.1 \
    pyyaml==6.0.3 \
    scikit-learn==1.9.1 \
    soundfile==0.14.0 \
    soxr==1.1.0 \
    tensorboard==2.21.0 \
    tensorflow==2.21.0 \
    threadpoolctl==3.8.0 \
    tqdm==4.70.1 \
    && pip check

COPY setup.cfg setup.py pyproject.toml README.md LICENSE /opt/tfsound/
COPY tfsound /opt/tfsound/tfsound
COPY beam /opt/tfsound/beam
COPY export /opt/tfsound/export
RUN pip install --no-cache-dir --no-deps --no-build-isolation /opt/tfsound && pip check
