# Builder and base; either may be given with a digest: --build-arg DEBIAN_IMAGE=docker.io/library/debian@sha256:…
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:12.14-slim
# cpu, or cuda: also computes on NVIDIA's GPUs, with their run-time libraries
ARG VARIANT=cpu

FROM ${RUST_IMAGE} AS build
ARG VARIANT
WORKDIR /src
# CUDA's compiler, in a layer that changes with its versions only.
COPY scripts/cuda_toolkit.sh scripts/
RUN case "${VARIANT}" in \
        cpu) ;; \
        cuda) scripts/cuda_toolkit.sh target/cuda-12.4 ;; \
        *) echo "VARIANT: expected cpu or cuda, got '${VARIANT}'" >&2; exit 1 ;; \
    esac
COPY Cargo.toml Cargo.lock ./
COPY src/ops/cuda/candle_kernels src/ops/cuda/candle_kernels
COPY scripts/build_cuda.sh scripts/
# The dependencies alone, with empty sources, so that a change of ours does not build them again. Benchmarks, whose files
# are not copied, leave the manifest.
RUN sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && if [ "${VARIANT}" = cuda ]; then set -- scripts/build_cuda.sh; else set -- cargo; fi \
    && "$@" build --locked --profile dist --bin pdac-cascade
COPY build.rs ./
# The case that is built in.
COPY test_input/images test_input/images
COPY src src
# Cargo goes by modification times, and the sources may be older than the empty ones. The dependency among them is as it was.
RUN find build.rs src -path src/ops/cuda/candle_kernels -prune -o -type f -exec touch {} + \
    && if [ "${VARIANT}" = cuda ]; then set -- scripts/build_cuda.sh; else set -- cargo; fi \
    && "$@" build --locked --profile dist --bin pdac-cascade \
    && find target -path '*/dist/pdac-cascade' -exec cp {} /pdac-cascade \;

# What the CUDA variant adds to the root folder: libraries and where to look for them.
FROM ${RUST_IMAGE} AS cuda-libraries
ARG VARIANT
COPY scripts/cuda_libraries.txt scripts/take_cuda_libraries.sh /build/
RUN mkdir /tree \
    && if [ "${VARIANT}" = cuda ]; then bash /build/take_cuda_libraries.sh /build/cuda_libraries.txt /tree; fi

FROM ${DEBIAN_IMAGE}
ARG VARIANT
COPY --from=cuda-libraries /tree/ /
# The linker's cache and not LD_LIBRARY_PATH, which the platform's wrapper rewrites.
RUN useradd --create-home --uid 1000 pdac \
    && if [ "${VARIANT}" = cuda ]; then ldconfig; fi
# NVIDIA's container runtime goes by these; elsewhere they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Demonstration weights, unfit for patients; weights mounted at /opt/ml/model are preferred.
COPY weights /opt/pdac-cascade/weights
COPY --from=build /pdac-cascade /opt/pdac-cascade/

# exec: one case, from /input to /output; invoke: an HTTP server on port 4743. The label tells the platform, the variable the program.
ARG API_METHOD=exec
ARG VERSION=unknown
ARG REVISION=unknown
# Some builders take ENV and LABEL from their cache whatever the arguments are; what is run they do not.
RUN case "${API_METHOD}" in \
        exec | invoke) ;; \
        *) echo "API_METHOD: expected exec or invoke, got '${API_METHOD}'" >&2; exit 1 ;; \
    esac
ENV PDAC_CASCADE_API_METHOD=${API_METHOD}
LABEL org.opencontainers.image.title="pdac-cascade" \
    org.opencontainers.image.description="Detection of pancreatic ductal adenocarcinoma in contrast-enhanced CT. The weights inside are demonstration weights: unfit for patients." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.grand-challenge.api-method="${API_METHOD}"
EXPOSE 4743
# By name: the platform's wrapper looks up the home folder.
# hadolint ignore=DL3066
USER pdac
ENTRYPOINT ["/opt/pdac-cascade/pdac-cascade"]
