#!/usr/bin/env bash
# Runs the digit classifier on a new kind cluster: cluster, KubeRay, images, compression job, service.
# Needs docker, git, kind, helm, kubectl and openssl. RAY_IMAGE: the base image, by digest.
# Can be run again: existing objects are kept, and so is a compression job that runs or has finished.
# A job that failed, or that has another recipe, is replaced.
set -euo pipefail
cd "$(dirname "$0")/.."

CLUSTER=headrace NAMESPACE=headrace KUBERAY=1.7.0 RAY=rayproject/ray:2.60.0-py311

for tool in docker git kind helm kubectl openssl; do
  command -v "$tool" > /dev/null || { echo "kind.sh: $tool is not installed" >&2; exit 1; }
done

kind get clusters | grep -qx "$CLUSTER" || kind create cluster --name "$CLUSTER"
kubectl config use-context "kind-$CLUSTER"
operator=$(mktemp -d)
trap 'rm -rf "$operator"' EXIT
git clone --quiet --depth 1 --branch "v$KUBERAY" https://github.com/ray-project/kuberay "$operator"
helm upgrade --install kuberay-operator "$operator/helm-chart/kuberay-operator" \
  --namespace kuberay-operator --create-namespace --wait

if [ -z "${RAY_IMAGE:-}" ]; then
  docker pull "$RAY"
  RAY_IMAGE=$(docker inspect --format '{{index .RepoDigests 0}}' "$RAY")
fi
for target in serving compression; do
  docker build --file k8s/Dockerfile --build-arg "RAY_IMAGE=$RAY_IMAGE" --target "$target" \
    --tag "headrace-$target:dev" .
  kind load docker-image "headrace-$target:dev" --name "$CLUSTER"
done

kubectl get namespace "$NAMESPACE" > /dev/null 2>&1 || kubectl create namespace "$NAMESPACE"
kubectl --namespace "$NAMESPACE" get secret headrace-ray-token > /dev/null 2>&1 ||
  kubectl --namespace "$NAMESPACE" create secret generic headrace-ray-token \
    --from-literal="auth_token=$(openssl rand -hex 32)"

overlay=$(mktemp -d .kind-XXXXXX)
trap 'rm -rf "$operator" "$overlay"' EXIT
# Fingerprint of everything that determines the job's result.
build=$(cat k8s/base/configmap.recipe.yaml k8s/base/rayjob.compression.yaml \
  k8s/overlays/cpu-dev/kustomization.yaml | sha256sum | cut --characters 1-16)
cat > "$overlay/kustomization.yaml" << YAML
namespace: $NAMESPACE
resources: [../k8s/overlays/cpu-dev]
images:
- {name: headrace-serving, newTag: dev}
- {name: headrace-compression, newTag: dev}
patches:
- target: {kind: RayJob}
  patch: |
    - {op: add, path: /metadata/annotations, value: {headrace-build: "$build"}}
    - {op: replace, path: /spec/suspend, value: false}
YAML

# The artifact first: replicas cannot start without it.
kubectl apply -k "$overlay" \
  --selector 'app.kubernetes.io/component notin (serving, compression)'
job() {
  kubectl --namespace "$NAMESPACE" get rayjob headrace-compression --ignore-not-found \
    --output "jsonpath=$1"
}
state=$(job '{.metadata.annotations.headrace-build}/{.status.jobDeploymentStatus}')
if [[ $state != "$build"/* || $state == *Failed ]]; then
  kubectl --namespace "$NAMESPACE" delete rayjob headrace-compression --ignore-not-found
  kubectl apply -k "$overlay" --selector app.kubernetes.io/component=compression
fi
for ((waited = 0; waited < 3600; waited += 5)); do
  status=$(job '{.status.jobDeploymentStatus}')
  case $status in
    Complete) break ;;
    Failed | ValidationFailed)
      echo "kind.sh: the compression job failed: kubectl --namespace $NAMESPACE describe" \
        "rayjob headrace-compression, and the logs of its pods" >&2
      exit 1 ;;
  esac
  sleep 5
done
[ "$status" = Complete ] || { echo "kind.sh: no artifact after an hour: $status" >&2; exit 1; }
kubectl apply -k "$overlay" --selector 'app.kubernetes.io/component=serving'
kubectl --namespace "$NAMESPACE" wait rayservice/headrace --timeout 20m --for condition=Ready
echo "kubectl --namespace $NAMESPACE port-forward service/headrace-serve-svc 8000"
echo "curl http://127.0.0.1:8000/v2/models/digits"
