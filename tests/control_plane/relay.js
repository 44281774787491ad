// What each node of pipelines.py does, in JavaScript: relay.py does the same. For HKube's wrapper for Node.
const fs = require('fs');

const WAIT_MS = 90000;
const RAW = Buffer.from(Array.from({ length: 256 }, (_, number) => number));
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const sizeOf = (number) => (number % 50 === 7 ? 200000 : 100);
const stamped = (message, name) => ({ ...message, by: [...message.by, name] });

const waitFor = async (end) => {
    const limit = Date.now() + WAIT_MS + 10000;
    while (!fs.existsSync(end) && Date.now() < limit) await pause(50);
    return fs.existsSync(end);
};

const deeds = {
    same: (args, api, value) => value,
    raw: (args, api, size) => Buffer.from(Array.from({ length: size }, (_, number) => number % 251)),
    measure: (args, api, data) => [data.length, data.reduce((sum, one) => sum + one, 0)],
    call: (args, api, algorithm, value) => api.startAlgorithm(algorithm, ['same', value], true),
    send: async (args, api, count, end) => {
        for (let number = 0; number < count; number += 1) {
            api.sendMessage({
                number, text: 'ü€', nothing: null, half: 0.5, raw: RAW, large: 'x'.repeat(sizeOf(number)), by: []
            });
        }
        return waitFor(end);
    },
    pass: async (args, api, end) => {
        api.registerInputListener(({ payload, sendMessage }) => sendMessage(stamped(payload, args.nodeName)));
        api.startMessageListening();
        return waitFor(end);
    },
    collect: async (args, api, count, end) => {
        const numbers = [];
        const wrong = [];
        const ways = new Set();
        api.registerInputListener(({ payload }) => {
            numbers.push(payload.number);
            ways.add(payload.by.join(' '));
            const isRight = payload.text === 'ü€' && payload.nothing === null && payload.half === 0.5
                && Buffer.compare(RAW, Buffer.from(payload.raw)) === 0
                && payload.large.length === sizeOf(payload.number);
            if (!isRight) wrong.push(JSON.stringify({ ...payload, large: payload.large.length }).slice(0, 200));
        });
        api.startMessageListening();
        const limit = Date.now() + WAIT_MS;
        while (numbers.length < count && Date.now() < limit) await pause(50);
        await pause(1000); // one that comes twice would be seen
        fs.writeFileSync(end, '');
        return {
            numbers: numbers.sort((a, b) => a - b), wrong: wrong.slice(0, 5), ways: [...ways].sort()
        };
    }
};

exports.start = async (args, api) => {
    if (args.streamInput) return stamped(args.streamInput.message, args.nodeName);
    const [what, ...rest] = args.input;
    return deeds[what](args, api, ...rest);
};
