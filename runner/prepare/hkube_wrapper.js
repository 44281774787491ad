// Loaded before a program of Node's (--require): changes HKube's wrapper as it is loaded, whoever runs it.
// Nothing here is newer than Node 10.
'use strict';

const Module = require('module');

const WRAPPER = '@hkube/nodejs-wrapper';
/** Of a stream: the longest time for a message; unset: any. */
const limitMs = Number(process.env.HKRUNNER_MESSAGE_MS);

function adapt(runner) {
    // Its own startAlgorithm() writes the arguments to HKube's storage, for which it has an encoder only with
    // storage v3: here they are part of the call, as the worker takes them under v1.
    const api = runner._hkubeApi;
    if (api && api._createReplyPromise) {
        api.startAlgorithm = (algorithmName, input = [], includeResult = true) => {
            const execId = api._generateExecId();
            const data = { execId, algorithmName, input, includeResult };
            const call = { command: 'startAlgorithmExecution', data };
            return api._createReplyPromise(execId, includeResult, call);
        };
    }
    // Its statistics of a stream hold a function, which json and bson leave out; in msgpack it would fail the
    // task.
    const send = runner._sendCommand;
    const plain = (message) => ({ ...message, data: JSON.parse(JSON.stringify(message.data)) });
    if (send) {
        runner._sendCommand = (message) =>
            send.call(runner, message.command === 'streamingStatistics' ? plain(message) : message);
    }
    // It says when a listener's call, also one that only waits, takes too long.
    const streams = runner._streamingManager;
    const handle = streams && streams._onMessage;
    if (handle && limitMs) {
        streams._onMessage = async (message) => {
            const task = runner._input; // of the next task it would be untrue
            const tell = () => runner._input === task
                && runner._sendCommand({ command: 'messageOverdue' }); // protocol/messages.py
            const timer = setTimeout(tell, limitMs);
            try {
                return await handle.call(streams, message);
            } finally {
                clearTimeout(timer);
            }
        };
    }
}

const load = Module._load;
Module._load = function loadAndAdapt(request, ...more) {
    const loaded = load.call(this, request, ...more);
    // A module of the other kind is imported by its path.
    const Runner = request.includes(WRAPPER) && loaded && loaded.prototype;
    if (Runner && Runner.connectToWorker) {
        const connect = Runner.connectToWorker;
        Runner.connectToWorker = function connectAndAdapt(...options) {
            const connected = connect.apply(this, options);
            adapt(this);
            return connected;
        };
        Module._load = load;
    }
    return loaded;
};
