using OpenSora.Torch;

namespace TorchSharp;

public static partial class torch
{
    public static Generator manual_seed(long seed)
    {
        Native.Check(Native.ManualSeed((ulong)seed));
        return Generator.Default;
    }

    /// <summary>A source of random numbers.</summary>
    public class Generator : IDisposable
    {
        private IntPtr handle;

        public Generator(ulong seed = 0, Device? device = null)
        {
            this.device = device ?? new Device(DeviceType.CPU);
            handle = Native.Check(Native.NewGenerator(seed, (int)this.device.type, this.device.index));
        }

        private Generator(IntPtr handle) => (this.handle, device) = (handle, new Device(DeviceType.CPU));

        ~Generator() => Dispose(false);

        public static Generator Default => new(Native.Check(Native.DefaultGenerator()));

        public Device device { get; }

        public IntPtr Handle => handle != IntPtr.Zero ? handle : throw new ObjectDisposedException(nameof(Generator));

        public Generator manual_seed(long seed)
        {
            Native.SetGeneratorSeed(Handle, (ulong)seed);
            GC.KeepAlive(this);
            return this;
        }

        public long seed()
        {
            var seed = Random.Shared.NextInt64();
            manual_seed(seed);
            return seed;
        }

        public long initial_seed()
        {
            var seed = Native.GeneratorSeed(Handle);
            GC.KeepAlive(this);
            return (long)seed;
        }

        public Tensor get_state()
        {
            var state = Native.GeneratorState(Handle);
            GC.KeepAlive(this);
            return Tensor.Own(Native.Check(state));
        }

        public void set_state(Tensor value)
        {
            var result = Native.SetGeneratorState(Handle, value.Handle);
            GC.KeepAlive(this);
            GC.KeepAlive(value);
            Native.Check(result);
        }

        public void Dispose()
        {
            Dispose(true);
            GC.SuppressFinalize(this);
        }

        protected virtual void Dispose(bool disposing)
        {
            var owned = Interlocked.Exchange(ref handle, IntPtr.Zero);
            if (owned != IntPtr.Zero) Native.FreeGenerator(owned);
        }
    }
}
