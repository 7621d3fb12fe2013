# flow on the CPU. Not tested yet: no machine that runs containers has built it.
#   docker build -f docker/cpu.Dockerfile -t flow --build-arg TORCH_INDEX=ADDRESS .   (PyTorch's index of builds for the CPU)
#   docker run --rm -v "$PWD:/work" flow run --folder runs/mine
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir build
COPY . /source
# Through the sdists, so that flow-fl asks for flow-kernels by its version
RUN FLOW_CUDA=0 FLOW_OPENMP=0 python -m build --outdir /wheels /source/packaging/flow-kernels \
    && python -m build --outdir /wheels /source

FROM python:3.12-slim-bookworm
ARG TORCH_INDEX=
RUN pip install --no-cache-dir torch==2.13.0 ${TORCH_INDEX:+--index-url $TORCH_INDEX}
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels pip install --no-cache-dir --find-links /wheels flow-fl
RUN useradd --create-home flow
USER flow
WORKDIR /work
ENTRYPOINT ["flow"]
CMD ["--help"]
