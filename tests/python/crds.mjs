// Holds custom resources, a JSON array on standard input, against the validators that @kubernetes-models makes of
// the projects' own OpenAPI; prints what each refuses, as a JSON array of arrays.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const MONITORING = "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoring";
const CERTIFICATES = "ComGithubCertManagerCertManagerPkgApisCertmanager";
const GATEWAY = "IoK8sSigsGatewayApiApis";
const KNOWN = {
  "monitoring.coreos.com/v1": ["prometheus-operator", `${MONITORING}V1`],
  "cert-manager.io/v1": ["cert-manager", `${CERTIFICATES}V1`],
  "gateway.networking.k8s.io/v1": ["gateway-api", `${GATEWAY}V1`],
};
const modules = `${process.argv[2]}/node_modules/@kubernetes-models`;
const faults = [];
for (const item of JSON.parse(readFileSync(0, "utf8"))) {
  const [project, prefix] = KNOWN[item.apiVersion];
  const path = `${modules}/${project}/_schemas/${prefix}${item.kind}.js`;
  const { validate } = await import(pathToFileURL(path));
  validate(item);
  faults.push((validate.errors ?? []).map((error) => `${error.instancePath}: ${error.keyword} ${JSON.stringify(error.params)}`));
}
console.log(JSON.stringify(faults));
