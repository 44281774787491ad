// The sum of its input, by a program that speaks HKube's protocol itself; it needs nothing but Java 11 or newer:
//   hkrunner --command 'java examples/Sum.java' --input '[1, 2, 3]'

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.util.concurrent.CompletionStage;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

public class Sum implements WebSocket.Listener {
    // A real program has a library for JSON. This one takes the command, and a list of numbers, from the text.
    static final Pattern COMMAND = Pattern.compile("\"command\"\\s*:\\s*\"(\\w+)\"");
    static final Pattern INPUT = Pattern.compile("\"input\"\\s*:\\s*\\[([^\\]]*)\\]");

    private final StringBuilder message = new StringBuilder();
    private String input = "";
    private Thread task = new Thread();

    static double sum(String numbers) {
        return Stream.of(numbers.split(",")).map(String::trim).filter(one -> !one.isEmpty())
            .mapToDouble(Double::parseDouble).sum();
    }

    void answer(WebSocket worker, String text) {
        switch (first(COMMAND, text)) {
            case "initialize":
                input = first(INPUT, text);
                say(worker, "{\"command\":\"initialized\"}");
                break;
            case "start":
                say(worker, "{\"command\":\"started\"}");
                task = new Thread(() -> run(worker)); // here, a `stop` would be read only after the task
                task.start();
                break;
            case "stop":
                task.interrupt(); // a long calculation would look at Thread.interrupted() now and then
                say(worker, "{\"command\":\"stopped\"}");
                break;
            case "exit":
                System.exit(0);
                break;
            default: // answers to calls that this program does not make
        }
    }

    void run(WebSocket worker) {
        try {
            say(worker, "{\"command\":\"done\",\"data\":" + sum(input) + "}");
        } catch (NumberFormatException error) {
            say(worker, "{\"command\":\"errorMessage\",\"error\":{\"code\":\"Failed\","
                + "\"message\":\"the input must be a list of numbers\"}}");
        }
    }

    static String first(Pattern pattern, String text) {
        Matcher found = pattern.matcher(text);
        return found.find() ? found.group(1) : "";
    }

    static synchronized void say(WebSocket worker, String text) {
        worker.sendText(text, true).join();
    }

    @Override
    public CompletionStage<?> onText(WebSocket worker, CharSequence part, boolean isLast) {
        message.append(part);
        if (isLast) {
            String text = message.toString();
            message.setLength(0);
            answer(worker, text);
        }
        worker.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket worker, int code, String reason) {
        System.exit(0);
        return null;
    }

    @Override
    public void onError(WebSocket worker, Throwable error) {
        error.printStackTrace();
        System.exit(1);
    }

    static String variable(String name, String other) {
        String value = System.getenv(name);
        return value == null ? other : value;
    }

    public static void main(String[] words) throws InterruptedException {
        String url = variable("WORKER_SOCKET_URL", "ws://" + variable("WORKER_SOCKET_HOST", "localhost") + ":"
            + variable("WORKER_SOCKET_PORT", "3000") + "/?storage=v1&encoding=json");
        HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(URI.create(url), new Sum()).join();
        Thread.currentThread().join(); // until onClose() or `exit`
    }
}
