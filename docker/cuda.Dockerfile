# flow with the Triton and CUDA kernels. Not tested yet: no machine that runs containers has built it, and the kernels have not
# run on a GPU in a container.
#   docker build -f docker/cuda.Dockerfile -t flow-cuda --build-arg TORCH_INDEX=ADDRESS .   (PyTorch's index for CUDA 13.0)
#   docker run --rm --gpus all -v "$PWD:/work" flow-cuda run --folder runs/mine
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /tools && /tools/bin/pip install --no-cache-dir build
COPY . /source
# FLOW_CUDA=1: without nvcc this fails, instead of leaving the CUDA kernels out
RUN FLOW_CUDA=1 FLOW_OPENMP=0 /tools/bin/python -m build --outdir /wheels /source/packaging/flow-kernels \
    && /tools/bin/python -m build --outdir /wheels /source

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* # Triton compiles a launcher with gcc
ARG TORCH_INDEX=
RUN python3 -m venv /opt/flow && /opt/flow/bin/pip install --no-cache-dir torch==2.13.0 ${TORCH_INDEX:+--index-url $TORCH_INDEX}
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    /opt/flow/bin/pip install --no-cache-dir --find-links /wheels 'flow-fl[gpu]'
RUN useradd --create-home flow
USER flow
WORKDIR /work
ENTRYPOINT ["/opt/flow/bin/flow"]
CMD ["--help"]
