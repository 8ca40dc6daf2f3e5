// A compute module on the official TypeScript SDK that returns what it finds around it.
const { ComputeModule, FoundryService } = require("@palantir/compute-module");

const module_ = new ComputeModule({ sources: { Api: { credentials: ["key"] } } });
module_.register("surroundings", async () => ({
  secret: module_.getCredential("Api", "key"),
  resource: module_.getResource("input"),
  gateway: module_.getServiceApi(FoundryService.API_GATEWAY),
  streams: module_.getServiceApi(FoundryService.STREAM_PROXY),
  environment: module_.environment,
}));
