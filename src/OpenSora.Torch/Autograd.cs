using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using OpenSora.Torch;

namespace TorchSharp;

public static partial class torch
{
    public static IDisposable no_grad() => new GradMode(false);

    public static IDisposable enable_grad(bool enabled = true) => new GradMode(enabled);

    public static IDisposable set_grad_enabled(bool mode = true) => new GradMode(mode);

    public static bool is_grad_enabled() => Native.GradEnabled() != 0;

    public static IDisposable inference_mode(bool mode = true) => new InferenceMode(mode);

    public static bool is_inference_mode_enabled() => Native.InferenceModeEnabled() != 0;

    public partial class Tensor
    {
        public void backward() => autograd.backward(this);

        public void backward(IList<Tensor>? grad_tensors = null, bool retain_graph = false, bool create_graph = false, IList<Tensor>? inputs = null)
            => autograd.backward([this], grad_tensors, retain_graph, create_graph, inputs);
    }

    public static partial class autograd
    {
        public static void backward(Tensor tensor, IList<Tensor>? grad_tensors = null, bool? retain_graph = null, bool create_graph = false, IList<Tensor>? inputs = null)
            => backward([tensor], grad_tensors, retain_graph, create_graph, inputs);

        public static void backward(Tensor tensor, Tensor grad_tensor, bool? retain_graph = null, bool create_graph = false, IList<Tensor>? inputs = null)
            => backward([tensor], [grad_tensor], retain_graph, create_graph, inputs);

        public static unsafe void backward(IList<Tensor> tensors, IList<Tensor>? grad_tensors = null, bool? retain_graph = null, bool create_graph = false, IList<Tensor>? inputs = null)
        {
            IntPtr[] outputs = Handles(tensors), gradients = Handles(grad_tensors), leaves = Handles(inputs);
            fixed (IntPtr* o = outputs, g = gradients, i = leaves)
                Raise(Native.Backward(o, outputs.Length, g, gradients.Length, (retain_graph ?? create_graph) ? 1 : 0, create_graph ? 1 : 0, i, leaves.Length));
            GC.KeepAlive(tensors);
            GC.KeepAlive(grad_tensors);
            GC.KeepAlive(inputs);
        }

        public static unsafe IList<Tensor> grad(IList<Tensor> outputs, IList<Tensor> inputs, IList<Tensor>? grad_outputs = null, bool retain_graph = false,
            bool create_graph = false, bool allow_unused = false)
        {
            IntPtr[] o = Handles(outputs), i = Handles(inputs), g = Handles(grad_outputs), r = new IntPtr[i.Length];
            fixed (IntPtr* po = o, pi = i, pg = g, pr = r)
                Raise(Native.Gradients(po, o.Length, pi, i.Length, pg, g.Length, retain_graph ? 1 : 0, create_graph ? 1 : 0, allow_unused ? 1 : 0, pr));
            GC.KeepAlive(outputs);
            GC.KeepAlive(inputs);
            GC.KeepAlive(grad_outputs);
            return [.. r.Select(h => h == IntPtr.Zero ? null! : Tensor.Own(h))];
        }

        private static IntPtr[] Handles(IList<Tensor>? tensors)
        {
            if (tensors is null) return [];
            var handles = new IntPtr[tensors.Count];
            for (var i = 0; i < handles.Length; i++) handles[i] = tensors[i]?.Handle ?? IntPtr.Zero;
            return handles;
        }

        /// <summary>What managed backwards threw, on its way through native code and perhaps to another thread, by the code that stands for it there.</summary>
        private static readonly ConcurrentDictionary<int, Exception> Thrown = new();
        private static int lastCode = -1;

        private static void Raise(int result)
        {
            if (result < 0) throw Thrown.TryRemove(result, out var inner) ? new ExternalException(inner.Message, inner) : Native.Failure();
        }

        /// <summary>What a function's forward leaves for its backward.</summary>
        public sealed class AutogradContext : IDisposable
        {
            private readonly Dictionary<string, object?> values = new(StringComparer.Ordinal);
            private List<Tensor> saved = [];
            private bool forgotten;

            internal AutogradContext()
            {
            }

            internal HashSet<Tensor> NotDifferentiable { get; } = new(System.Collections.Generic.ReferenceEqualityComparer.Instance);

            public void save_for_backward(List<Tensor> tensors)
            {
                foreach (var tensor in saved) tensor?.Dispose();
                saved = [.. tensors.Select(t => t is null ? null! : Tensor.Own(t.Share()).DetachFromDisposeScope())];
            }

            public List<Tensor> get_saved_variables() => !forgotten ? saved : throw new InvalidOperationException(
                "What this function saved was freed by an earlier backward pass; give that one retain_graph: true to go through the graph again.");

            public void save_data(string key, object value) => values[key] = value;

            public object get_data(string key) => values[key]!;

            public void mark_non_differentiable(List<Tensor> tensors) => NotDifferentiable.UnionWith(tensors);

            public void Dispose()
            {
                Forget();
                values.Clear();
            }

            internal void Forget()
            {
                forgotten = saved.Count > 0 || forgotten;
                foreach (var tensor in saved) tensor?.Dispose();
                saved = [];
            }
        }

        /// <summary>An operation whose gradient is written in C#.</summary>
        public abstract class Function<T>
            where T : Function<T>, new()
        {
            public abstract string Name { get; }

            internal abstract List<Tensor> Forward(AutogradContext ctx, object[] vars);

            internal abstract List<Tensor> Backward(AutogradContext ctx, List<Tensor> gradients);

            protected static unsafe List<Tensor> apply_internal(params object[] vars)
            {
                var function = new T();
                var node = new Node(function.Backward);
                var inputs = vars.OfType<Tensor>().ToList();
                List<Tensor> outputs;
                try
                {
                    using (no_grad()) outputs = function.Forward(node.Context, vars);
                }
                catch
                {
                    node.Context.Dispose();
                    throw;
                }

                node.Positions = [.. vars.Index().Where(v => v.Item is Tensor).Select(v => v.Index)];
                node.OutputShapes = [.. outputs.Select(o => (o.shape, o.dtype, o.device))];
                IntPtr[] i = Handles(inputs), o = Handles(outputs);
                var differentiable = outputs.Select(t => (byte)((t.is_floating_point() || t.is_complex()) && !node.Context.NotDifferentiable.Contains(t) ? 1 : 0)).ToArray();
                var context = GCHandle.ToIntPtr(GCHandle.Alloc(node));
                fixed (IntPtr* pi = i, po = o)
                fixed (byte* pd = differentiable)
                    Native.Check(Native.CustomFunction(pi, i.Length, po, o.Length, pd, &Node.Run, &Node.Forget, &Node.Release, context));
                GC.KeepAlive(inputs);
                foreach (var output in outputs)
                    if (!inputs.Contains(output)) output.Dispose();
                return [.. o.Select(Tensor.Own)];
            }
        }

        /// <summary>A function's call, kept alive by the graph until its backward is no longer needed.</summary>
        private sealed class Node(Func<AutogradContext, List<Tensor>, List<Tensor>> backward)
        {
            public AutogradContext Context { get; } = new();

            public int[] Positions { get; set; } = [];

            public (long[] Shape, ScalarType Dtype, Device Device)[] OutputShapes { get; set; } = [];

            [UnmanagedCallersOnly]
            internal static unsafe int Run(IntPtr context, IntPtr* gradients, int count, IntPtr* results, int resultCount)
            {
                try
                {
                    var node = (Node)GCHandle.FromIntPtr(context).Target!;
                    using var scope = NewDisposeScope();
                    var incoming = new List<Tensor>(count);
                    for (var k = 0; k < count; k++)
                    {
                        var (shape, dtype, device) = node.OutputShapes[k];
                        incoming.Add(gradients[k] != IntPtr.Zero ? Tensor.Own(Native.Share(gradients[k])) : zeros(shape, dtype: dtype, device: device));
                    }

                    var outgoing = node.Backward(incoming);
                    // Backward may answer for every argument or for the tensors among them only.
                    var forTensors = outgoing.Count == resultCount ? outgoing : [.. node.Positions.Select(p => p < outgoing.Count ? outgoing[p] : null!)];
                    for (var k = 0; k < resultCount; k++) results[k] = forTensors[k] is { } t ? t.Share() : IntPtr.Zero;
                    return 0;
                }
#pragma warning disable CA1031 // an exception must not cross native frames; it is thrown again by backward()
                catch (Exception e)
                {
                    var code = Interlocked.Decrement(ref lastCode);
                    Thrown[code] = e;
                    return code;
                }
#pragma warning restore CA1031
            }

            [UnmanagedCallersOnly]
            internal static void Forget(IntPtr context) => ((Node)GCHandle.FromIntPtr(context).Target!).Context.Forget();

            [UnmanagedCallersOnly]
            internal static void Release(IntPtr context)
            {
                var pin = GCHandle.FromIntPtr(context);
                ((Node)pin.Target!).Context.Dispose();
                pin.Free();
            }

            private List<Tensor> Backward(List<Tensor> gradients) => backward(Context, gradients);
        }

        public abstract class SingleTensorFunction<T> : Function<T>
            where T : SingleTensorFunction<T>, new()
        {
            public static Tensor apply(params object[] vars) => apply_internal(vars)[0];

            public abstract Tensor forward(AutogradContext ctx, params object[] vars);

            public abstract List<Tensor> backward(AutogradContext ctx, Tensor grad_output);

            internal override List<Tensor> Forward(AutogradContext ctx, object[] vars) => [forward(ctx, vars)];

            internal override List<Tensor> Backward(AutogradContext ctx, List<Tensor> gradients) => backward(ctx, gradients[0]);
        }

        public abstract class MultiTensorFunction<T> : Function<T>
            where T : MultiTensorFunction<T>, new()
        {
            public static List<Tensor> apply(params object[] vars) => apply_internal(vars);

            public abstract List<Tensor> forward(AutogradContext ctx, params object[] vars);

            public abstract List<Tensor> backward(AutogradContext ctx, List<Tensor> grad_outputs);

            internal override List<Tensor> Forward(AutogradContext ctx, object[] vars) => forward(ctx, vars);

            internal override List<Tensor> Backward(AutogradContext ctx, List<Tensor> gradients) => backward(ctx, gradients);
        }
    }

    private sealed class GradMode : IDisposable
    {
        private readonly int before = Native.GradEnabled();

        public GradMode(bool on) => Native.SetGradEnabled(on ? 1 : 0);

        public void Dispose() => Native.SetGradEnabled(before);
    }

    private sealed class InferenceMode(bool on) : IDisposable
    {
        private IntPtr guard = Native.InferenceModeEnter(on ? 1 : 0);

        public void Dispose()
        {
            var owned = Interlocked.Exchange(ref guard, IntPtr.Zero);
            if (owned != IntPtr.Zero) Native.InferenceModeLeave(owned);
        }
    }
}
