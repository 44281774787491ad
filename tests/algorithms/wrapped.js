// Runs inside HKube's wrapper for Node; does what its input says.
const wrapper = require('@hkube/nodejs-wrapper');

let stopped;

wrapper.run({
    init: () => {
        stopped = new Promise((resolve) => { module.exports.release = resolve; });
    },
    start: async (args, api) => {
        const [what, ...values] = args.input;
        switch (what) {
            case 'give':
                return values[0];
            case 'raise':
                throw new Error(values[0]);
            case 'raw':
                return api.startRawSubpipeline('numbers', values[0], values[1]);
            case 'stored':
                return api.startStoredSubpipeline(values[0], values[1]);
            case 'source':
                return api.getDataSource({ dataSourceId: values[0] });
            case 'wait':
                console.log('waits');
                await stopped;
                return null;
            case 'crash':
                return process.exit(3);
            default:
                return args;
        }
    },
    stop: () => module.exports.release()
});
