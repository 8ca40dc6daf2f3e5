import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** The requests of the Java SDK, on the JDK's own client, read with Jackson as it reads them. */
public class Client {
    /** A job: its fields are at the top level, and others are ignored. */
    @JsonIgnoreProperties(ignoreUnknown = true)
    record ComputeModuleJob(String jobId, String queryType, Object query) {}

    public static void main(String[] args) throws Exception {
        // Newer SDKs read their addresses from the environment, and send no token.
        String jobUri = System.getenv("GET_JOB_URI_V2");
        boolean newer = jobUri != null;
        String base = "http://127.0.0.1:" + args[0];
        String results = newer ? System.getenv("POST_RESULT_URI_V2") : base + "/results";
        HttpRequest.Builder requests = HttpRequest.newBuilder();
        if (!newer) {
            requests.header("Module-Auth-Token", Files.readString(Path.of(System.getenv("MODULE_AUTH_TOKEN"))));
        }
        URI poll = URI.create(newer ? jobUri : base + "/job");
        HttpClient client = HttpClient.newHttpClient();
        HttpResponse<String> polled;
        do {
            polled = client.send(requests.copy().uri(poll).GET().build(), HttpResponse.BodyHandlers.ofString());
        } while (polled.statusCode() == 204);
        ObjectMapper mapper = new ObjectMapper();
        ComputeModuleJob job = mapper.readValue(polled.body(), ComputeModuleJob.class);
        // A function that raised: the SDK posts the id of the job and the stack trace, without a length.
        String result = job.queryType().equals("raises")
            ? "JobId: " + job.jobId() + "\njava.lang.IllegalStateException: on purpose\n\tat Main.main(Main.java)\n"
            : job.queryType() + " " + mapper.writeValueAsString(job.query());
        HttpResponse<String> posted = client.send(
            requests.copy()
                .uri(URI.create(results + "/" + job.jobId()))
                .header("Content-Type", "application/octet-stream")
                .POST(HttpRequest.BodyPublishers.ofInputStream(
                    () -> new ByteArrayInputStream(result.getBytes(StandardCharsets.UTF_8))))
                .build(),
            HttpResponse.BodyHandlers.ofString());
        System.out.println(posted.statusCode());
    }
}
