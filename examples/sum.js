// The sum of its input, by a program that speaks HKube's protocol itself:
//   hkrunner --command 'node examples/sum.js' --input '[1, 2, 3]'
// It needs Node 22, or Node 20 with the option --experimental-websocket.

function sum(values) {
    if (!values.every((one) => typeof one === 'number')) {
        throw new TypeError('the input must be a list of numbers');
    }
    return values.reduce((total, one) => total + one, 0);
}

const host = process.env.WORKER_SOCKET_HOST ?? 'localhost';
const port = process.env.WORKER_SOCKET_PORT ?? 3000;
const url = process.env.WORKER_SOCKET_URL ?? `ws://${host}:${port}/?storage=v1&encoding=json`;
const worker = new WebSocket(url);
const say = (command, more = {}) => worker.send(JSON.stringify({ command, ...more }));

let input;
const answers = {
    initialize(data) {
        input = data.input;
        say('initialized');
    },
    start() {
        say('started');
        try {
            say('done', { data: sum(input) });
        }
        catch (error) {
            say('errorMessage', { error: { code: 'Failed', message: error.message, details: error.stack } });
        }
    },
    stop: () => say('stopped'),
    exit: (data) => process.exit(data?.exitCode ?? 0)
};

worker.onmessage = (event) => {
    const { command, data } = JSON.parse(event.data);
    answers[command]?.(data);
};
worker.onerror = () => {
    console.error(`no worker at ${url}`);
    process.exit(1);
};
