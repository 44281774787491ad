// A worker of HKube's on the real socket.io 2 server, set up as core/worker lib/algorithm-communication/socket-io.js
// does it: one socket, an event for each command, the message as its only argument. Lines of JSON on stdin make it
// act, and lines on stdout say what has happened. Bytes are {"$bytes": base64} there.
const http = require('http');
const readline = require('readline');
const socketio = require('socket.io');

const COMMANDS = ['initialized', 'started', 'stopped', 'stopping', 'progress', 'errorMessage', 'servingStatus',
    'dataSourceRequest', 'startRawSubPipeline', 'startStoredSubPipeline', 'stopSubPipeline', 'startSpan', 'finishSpan',
    'startAlgorithmExecution', 'stopAlgorithmExecution', 'streamingStatistics', 'storing', 'done', 'alive'];
const pingTimeout = Number(process.argv[process.argv.length - 1]);
let server = null;
let socket = null;
let port = 0;
const sockets = new Set();

const shown = (value) => {
    if (Buffer.isBuffer(value)) return { $bytes: value.toString('base64') };
    if (Array.isArray(value)) return value.map(shown);
    if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, shown(v)]));
    return value;
};
const meant = (value) => {
    if (Array.isArray(value)) return value.map(meant);
    if (value && typeof value === 'object') {
        if (typeof value.$bytes === 'string') return Buffer.from(value.$bytes, 'base64');
        if (typeof value.$zeros === 'number') return Buffer.alloc(value.$zeros);
        if (typeof value.$text === 'number') return 'x'.repeat(value.$text);
        return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, meant(v)]));
    }
    return value;
};
const brief = (message) => {
    const data = message && message.data;
    if (typeof data === 'string' && data.length > 1000) return { ...message, data: { $length: data.length } };
    if (Buffer.isBuffer(data) && data.length > 1000) return { ...message, data: { $size: data.length } };
    return message;
};
const say = (what) => process.stdout.write(`${JSON.stringify(shown(what))}\n`);

function listen(then) {
    server = http.createServer();
    server.on('connection', (one) => { sockets.add(one); one.on('close', () => sockets.delete(one)); });
    const io = socketio.listen(server, { pingTimeout, pingInterval: pingTimeout * 2, maxHttpBufferSize: 1e8 });
    io.on('connection', (connected) => {
        say({ event: 'connection', transport: connected.conn.transport.name, sockets: socket === null ? 1 : 2 });
        socket = connected;
        COMMANDS.forEach((topic) => connected.on(topic, (message) => say({ event: topic, message: brief(message) })));
        connected.conn.on('packet', (packet) => { if (packet.type === 'ping') say({ event: 'ping' }); });
        connected.on('disconnect', (reason) => { socket = null; say({ event: 'disconnect', reason }); });
    });
    server.listen(port, '127.0.0.1', () => { port = server.address().port; then(); });
}

const acts = {
    send: ({ message }) => socket.emit(message.command, meant(message)),
    packets: ({ packets }) => packets.forEach((one) => socket.conn.transport.socket.send(meant(one))),
    disconnect: () => socket.disconnect(true),
    engineClose: () => socket.conn.transport.socket.send('1'),
    reset: () => sockets.forEach((one) => one.resetAndDestroy()),
    stopListening: () => { server.close(); sockets.forEach((one) => one.destroy()); say({ event: 'stopped listening' }); },
    listen: () => listen(() => say({ event: 'listening', port })),
};
readline.createInterface({ input: process.stdin })
    .on('line', (line) => { const act = JSON.parse(line); acts[act.act](act); })
    .on('close', () => process.exit(0));
listen(() => say({ event: 'listening', port }));
