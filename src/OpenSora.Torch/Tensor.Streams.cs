namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor
    {
        /// <summary>Fills the tensor, contiguous and on the CPU, with bytes from a stream.</summary>
        public unsafe void ReadBytesFromStream(Stream stream, int bufferSize = 1024)
        {
            var data = (byte*)Memory();
            var length = numel() * element_size();
            for (long done = 0; done < length;)
            {
                var part = new Span<byte>(data + done, (int)Math.Min(length - done, Math.Max(bufferSize, 1)));
                stream.ReadExactly(part);
                done += part.Length;
            }

            GC.KeepAlive(this);
        }

        /// <summary>Writes the bytes of the tensor, contiguous and on the CPU, to a stream.</summary>
        public unsafe void WriteBytesToStream(Stream stream, int bufferSize = 1024)
        {
            var data = (byte*)Memory();
            var length = numel() * element_size();
            for (long done = 0; done < length;)
            {
                var part = new ReadOnlySpan<byte>(data + done, (int)Math.Min(length - done, Math.Max(bufferSize, 1)));
                stream.Write(part);
                done += part.Length;
            }

            GC.KeepAlive(this);
        }
    }
}
