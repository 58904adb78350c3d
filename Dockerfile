# The image: one static binary, the certificates that the system trusts, and an empty /data.
# Base images are build arguments, so that a mirror's or the tests' own can replace them.
ARG BUILD_IMAGE=rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=scratch

# Always the builder's own architecture: another one is cross-compiled and not emulated.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG BUILDARCH
# Without a default value, which would override the platform of the build.
ARG TARGETARCH
WORKDIR /src

# A compiler for the other architecture, only where there is one to build for.
# hadolint ignore=DL3008
RUN if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        case $TARGETARCH in \
            arm64) gcc=gcc-aarch64-linux-gnu libc=libc6-dev-arm64-cross rust=aarch64 ;; \
            amd64) gcc=gcc-x86-64-linux-gnu libc=libc6-dev-amd64-cross rust=x86_64 ;; \
            *) echo "no build for $TARGETARCH" >&2; exit 1 ;; \
        esac; \
        apt-get update -q; \
        apt-get install -q -y --no-install-recommends "$gcc" "$libc"; \
        rm -rf /var/lib/apt/lists/*; \
        rustup target add "$rust-unknown-linux-gnu"; \
    fi

# Without rust-toolchain.toml: the base image is the toolchain.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src

# The commit that /version names.
ARG COMMIT=""
# The tests take "ci", which compiles faster.
ARG PROFILE=dist
ENV BUILD_COMMIT=$COMMIT \
    RUSTFLAGS="-C target-feature=+crt-static" \
    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CC_x86_64_unknown_linux_gnu=x86_64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc

# Cargo.toml names benchmarks and a test, and cargo requires the files to exist.
# The caches hold what was downloaded and compiled, so that a change to this crate compiles this crate only.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=target-$TARGETARCH,target=/src/target,sharing=locked \
    mkdir -p benches tests/integration /out/data; \
    touch benches/throughput.rs benches/hot.rs tests/integration/main.rs; \
    case $TARGETARCH in \
        arm64) target=aarch64-unknown-linux-gnu ;; \
        amd64) target=x86_64-unknown-linux-gnu ;; \
        *) echo "no build for $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    cargo build --locked --profile "$PROFILE" --config "profile.$PROFILE.strip='symbols'" --target "$target"; \
    cp "target/$target/$PROFILE/streamway" /out/streamway

FROM ${RUNTIME_IMAGE}
ARG COMMIT=""
ARG VERSION=0.1.0
ARG CREATED=""
LABEL org.opencontainers.image.title="streamway" \
      org.opencontainers.image.description="A streaming gRPC server: durable topics, resumable subscriptions" \
      org.opencontainers.image.source="https://github.com/streamway/streamway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$COMMIT \
      org.opencontainers.image.created=$CREATED

# The certificate authorities that a client and the telemetry exporters trust.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/streamway /usr/local/bin/streamway
COPY LICENSE /usr/share/doc/streamway/LICENSE
# A fresh volume takes over this directory's owner. The server writes nowhere else.
COPY --from=build --chown=65532:65532 /out/data /data
VOLUME /data

ENV STREAMWAY_DATA_DIR=/data \
    STREAMWAY_HTTP_LISTEN=0.0.0.0:8080
USER 65532:65532
EXPOSE 50051 8080 8081
STOPSIGNAL SIGTERM
# Asks the admin port, which is plaintext, needs no identity and has a connection limit of its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/streamway", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/streamway"]
CMD ["serve"]
