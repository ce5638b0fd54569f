FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# Cargo.toml names the benchmark, so its file has to be there.
COPY benches benches
COPY src src
RUN cargo build --locked --profile dist --bin pdac-cascade

FROM debian:bookworm-slim
RUN useradd --create-home --uid 1000 pdac
COPY --from=build /src/target/dist/pdac-cascade /opt/pdac-cascade/
# Demonstration weights, unfit for patients; weights mounted at /opt/ml/model are preferred.
COPY weights /opt/pdac-cascade/weights
USER pdac
ENTRYPOINT ["/opt/pdac-cascade/pdac-cascade"]
