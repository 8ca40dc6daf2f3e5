import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;

/** The requests of the Java SDK, on the JDK's own client: poll until there is a job, post its result. */
public class Client {
    public static void main(String[] args) throws Exception {
        String base = "http://127.0.0.1:" + args[0];
        String token = Files.readString(Path.of(System.getenv("MODULE_AUTH_TOKEN")));
        HttpClient client = HttpClient.newHttpClient();
        HttpResponse<String> polled;
        do {
            polled = client.send(
                HttpRequest.newBuilder(URI.create(base + "/job")).header("Module-Auth-Token", token).GET().build(),
                HttpResponse.BodyHandlers.ofString());
        } while (polled.statusCode() == 204);
        String id = polled.body().replaceAll("(?s).*\"jobId\":\\s*\"([^\"]*)\".*", "$1");
        HttpResponse<String> posted = client.send(
            HttpRequest.newBuilder(URI.create(base + "/results/" + id))
                .header("Module-Auth-Token", token)
                .header("Content-Type", "application/octet-stream")
                .POST(HttpRequest.BodyPublishers.ofString("from Java " + polled.statusCode()))
                .build(),
            HttpResponse.BodyHandlers.ofString());
        System.out.println(posted.statusCode());
    }
}
