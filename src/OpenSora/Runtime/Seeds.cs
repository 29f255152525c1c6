using System.Buffers.Binary;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>Creates random generators from 64-bit seeds.</summary>
internal static class Seeds
{
    private const int Words = 624; // the state of the Mersenne twister
    private const int StateOffset = 24; // behind the seed, the number of words left, a flag and the position

    /// <summary>Creates a generator. Different seeds give different random numbers.</summary>
    /// <param name="seed">Any number. libtorch's generator on the CPU uses the low 32 bits of a seed only, so its state is computed here for seeds
    /// that do not fit into them.</param>
    /// <param name="device">The device of the random numbers.</param>
    /// <returns>The generator, owned by the caller.</returns>
    public static Generator CreateGenerator(long seed, Device device)
    {
        var generator = new Generator(unchecked((ulong)seed), device);
        if (device.type == DeviceType.CPU && seed is < 0 or > uint.MaxValue)
        {
            using var state = generator.get_state();
            var bytes = state.data<byte>().ToArray();
            foreach (var (i, word) in StateOf(unchecked((uint)seed), unchecked((uint)(seed >> 32))).Index())
            {
                BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(StateOffset + i * sizeof(ulong)), word);
            }

            using var widened = tensor(bytes, dtype: ScalarType.Byte);
            generator.set_state(widened);
        }

        return generator;
    }

    // Initialization by an array: Matsumoto and Nishimura 1998, "Mersenne Twister", in its version of 2002.
    internal static uint[] StateOf(params ReadOnlySpan<uint> keys)
    {
        unchecked
        {
            var state = new uint[Words];
            state[0] = 19650218;
            for (var n = 1; n < Words; n++)
            {
                state[n] = 1812433253 * (state[n - 1] ^ state[n - 1] >> 30) + (uint)n;
            }

            var (i, j) = (1, 0);
            for (var n = Words; n > 0; n--)
            {
                state[i] = (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) * 1664525) + keys[j] + (uint)j;
                j = (j + 1) % keys.Length;
                Advance();
            }

            for (var n = Words - 1; n > 0; n--)
            {
                state[i] = (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) * 1566083941) - (uint)i;
                Advance();
            }

            state[0] = 0x80000000;
            return state;

            void Advance()
            {
                if (++i == Words)
                {
                    state[0] = state[^1];
                    i = 1;
                }
            }
        }
    }
}
